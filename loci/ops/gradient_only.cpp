#include "loci/ops/gradient_only.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

namespace loci {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct GradientOnly : torch::autograd::Function<GradientOnly> {
  static variable_list forward(AutogradContext* context, const std::string& who, const variable_list& /*inputs*/,
                               const std::function<variable_list()>& gradient) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->saved_data["who"] = who;
    return gradient();
  }

  static variable_list backward(AutogradContext* context, const variable_list& /*grads*/) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, context->saved_data["who"].toStringRef(),
                                ": a second derivative is not implemented");
  }
};

}  // namespace

std::vector<at::Tensor> without_second_derivative(const std::string& who, const std::vector<at::Tensor>& inputs,
                                                  const std::function<std::vector<at::Tensor>()>& gradient) {
  return GradientOnly::apply(who, inputs, gradient);
}

}  // namespace loci
