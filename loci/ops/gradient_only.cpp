#include "loci/ops/gradient_only.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace loci {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Function::apply finds inputs that are tensors, not lists of tensors.
struct GradientOnly : torch::autograd::Function<GradientOnly> {
  static variable_list forward(AutogradContext* context, const std::string& who,
                               const std::function<variable_list()>& gradient, const at::Tensor& /*input 0*/,
                               const at::Tensor& /*input 1*/, const at::Tensor& /*input 2*/,
                               const at::Tensor& /*input 3*/) {
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
  TORCH_INTERNAL_ASSERT(!inputs.empty() && inputs.size() <= 4);
  const auto input = [&](size_t i) { return inputs[std::min(i, inputs.size() - 1)]; };
  return GradientOnly::apply(who, gradient, input(0), input(1), input(2), input(3));
}

}  // namespace loci
