#include "loci/nn/small/straight_through.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>

// Legend: K choices.

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ChooseFunction : torch::autograd::Function<ChooseFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& value, const Tensor& score) {
    const Tensor chosen = score.argmax(-1, /*keepdim=*/true);
    context->save_for_backward({value, chosen});
    return at::gather(value, -1, chosen).squeeze(-1);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grad) {
    const variable_list saved = context->get_saved_variables();
    const Tensor of_result = grad[0].unsqueeze(-1);
    return {context->needs_input_grad(0) ? at::zeros_like(saved[0]).scatter(-1, saved[1], of_result) : Tensor(),
            context->needs_input_grad(1) ? of_result * saved[0] : Tensor()};
  }
};

struct ScaleFunction : torch::autograd::Function<ScaleFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, double factor) {
    context->saved_data["factor"] = factor;
    return x.view_as(x);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grad) {
    return {grad[0] * context->saved_data["factor"].toDouble(), Tensor()};
  }
};

}  // namespace

Tensor straight_through_choose(const Tensor& value, const Tensor& score) {
  TORCH_CHECK(value.dim() > 0 && value.size(-1) > 0 && value.sizes() == score.sizes() &&
                  value.scalar_type() == score.scalar_type() && value.is_floating_point(),
              "straight_through_choose: value and score must be [.., K] of one floating type with K >= 1, got ",
              value.sizes(), " of ", value.scalar_type(), " and ", score.sizes(), " of ", score.scalar_type());
  return ChooseFunction::apply(value, score);
}

Tensor scale_gradient(const Tensor& x, double factor) {
  return ScaleFunction::apply(x, factor);
}

}  // namespace loci
