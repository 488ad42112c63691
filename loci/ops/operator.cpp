#include "loci/ops/operator.h"

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/library.h>

#include <algorithm>

namespace loci {
namespace operator_detail {

void save(torch::autograd::AutogradContext& context, const char* who, const std::vector<bool>& given,
          ForwardPass& pass) {
  context.save_for_backward(std::move(pass.saved));
  if (!pass.without_gradient.empty()) context.mark_non_differentiable(pass.without_gradient);
  context.saved_data["who"] = std::string(who);
  c10::List<bool> are_given;
  for (const bool is_given : given) are_given.push_back(is_given);
  context.saved_data["given"] = are_given;
  context.saved_data["constants"] = c10::ivalue::Tuple::create(std::move(pass.constants));
}

variable_list run_backward(Backward* backward, const torch::autograd::AutogradContext& context,
                           const variable_list& grad) {
  BackwardPass pass{
      grad, context.get_saved_variables(), context.saved_data.at("constants").toTupleRef().elements().vec(), {}};
  const c10::List<bool> given = context.saved_data.at("given").toBoolList();
  size_t edge = 0;
  for (const bool is_given : given) pass.needed.push_back(is_given && context.needs_input_grad(edge++));

  variable_list all;
  {
    const at::NoGradGuard not_recorded;
    all = backward(pass);
  }
  variable_list gradients(3);  // the arguments of apply that are no tensors
  for (size_t i = 0; i < all.size(); ++i) {
    if (given[i]) gradients.push_back(all[i]);
  }

  const auto is_variable = [](const at::Tensor& x) { return x.defined() && x.requires_grad(); };
  const bool again = at::GradMode::is_enabled() && (std::any_of(grad.begin(), grad.end(), is_variable) ||
                                                    std::any_of(pass.saved.begin(), pass.saved.end(), is_variable));
  if (!again) return gradients;
  for (at::Tensor& gradient : gradients) {
    if (gradient.defined()) gradient = gradient.detach().requires_grad_();
  }
  torch::autograd::DelayedError refusal(
      context.saved_data.at("who").toStringRef() + ": a second derivative is not implemented",
      static_cast<int64_t>(gradients.size()));
  return refusal.apply(std::move(gradients));
}

}  // namespace operator_detail

namespace {

void move_versions(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const std::vector<c10::Argument>& arguments = op.schema().arguments();
  const size_t first = stack->size() - arguments.size();
  std::vector<at::Tensor> written;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const c10::AliasInfo* alias = arguments[i].alias_info();
    const c10::IValue& value = (*stack)[first + i];
    if (alias != nullptr && alias->isWrite() && value.isTensor()) written.push_back(value.toTensor());
  }
  {
    at::AutoDispatchBelowADInplaceOrView below;
    op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
  }
  moves_versions_of(written);
}

}  // namespace

void moves_versions_of(const std::vector<at::Tensor>& written) {
  for (const at::Tensor& tensor : written) {
    if (tensor.defined()) tensor.unsafeGetTensorImpl()->bump_version();
  }
}

torch::CppFunction not_differentiable() {
  return torch::autograd::autogradNotImplementedFallback();
}

torch::CppFunction moves_versions() {
  return torch::CppFunction::makeFromBoxedFunction<&move_versions>();
}

}  // namespace loci
