// What the glue of every operator shares: its registration, the call through the dispatcher, a gradient that can be
// taken once, and the version counters of written tensors.
//
//   Tensor scale_rows(const Tensor& x, const Tensor& factor) {
//     return call_operator<"loci::scale_rows", decltype(scale_rows)>(x, factor);
//   }
//   std::vector<Tensor> gradient(const BackwardPass& pass) {          // one entry for each of the inputs below
//     return {pass.needed[0] ? scale_rows(pass.grad[0], pass.saved[1]) : Tensor(), ...};
//   }
//   Tensor autograd_entry(const Tensor& x, const Tensor& factor) {
//     return once_differentiable<gradient>("scale_rows", {x, factor},
//                                          [&] { return ForwardPass{{scale_rows(x, factor)}, {x, factor}}; })[0];
//   }
//   TORCH_LIBRARY_FRAGMENT(loci, m) {
//     define_operator(m, "scale_rows(Tensor x, Tensor factor) -> Tensor", definition, autograd_entry);
//     define_operator(m, "scale_rows_backward(Tensor grad, Tensor factor) -> Tensor", backward_definition,
//                     not_differentiable());
//   }
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cstddef>
#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "loci/base/cpu_level.h"

namespace loci {

template <size_t kSize>
struct OperatorName {
  char text[kSize];
  consteval OperatorName(const char (&name)[kSize]) {
    for (size_t i = 0; i < kSize; ++i) text[i] = name[i];
  }
};

// Calls the registered operator, whose schema is looked up at the first call. Signature: the C++ types of its schema.
template <OperatorName kName, class Signature, class... Arguments>
decltype(auto) call_operator(Arguments&&... arguments) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(kName.text, "").template typed<Signature>();
  return op.call(std::forward<Arguments>(arguments)...);
}

// Registers an operator by its schema: the definition for every device, and what autograd calls. A path for one device
// is registered beside it, under that device's key.
template <class Definition, class Autograd>
void define_operator(torch::Library& library, const std::string& schema, Definition definition, Autograd autograd,
                     at::Tag tag = at::Tag::pt2_compliant_tag) {
  const std::string name = schema.substr(0, schema.find('('));
  library.def(schema.c_str(), {tag});
  library.impl(name.c_str(), c10::DispatchKey::CompositeExplicitAutograd, std::move(definition));
  library.impl(name.c_str(), c10::DispatchKey::Autograd, std::move(autograd));
}

namespace operator_detail {

template <auto kFunction, class Result, class... Arguments, size_t... kAt>
constexpr auto without_level(Result (* /*function*/)(Arguments...), std::index_sequence<kAt...> /*arguments*/) {
  using All = std::tuple<Arguments...>;
  return +[](std::tuple_element_t<kAt, All>... given) -> Result { return kFunction(given..., cpu_level()); };
}

template <auto kFunction, class Result, class... Arguments>
constexpr auto without_level(Result (*function)(Arguments...)) {
  return without_level<kFunction>(function, std::make_index_sequence<sizeof...(Arguments) - 1>{});
}

}  // namespace operator_detail

// For the key CPU: kFunction, whose last argument is a level, at that of this CPU.
template <auto kFunction>
constexpr auto at_cpu_level = operator_detail::without_level<kFunction>(kFunction);

// What a forward pass leaves. Results of integer type never have a gradient.
struct ForwardPass {
  std::vector<at::Tensor> results;
  std::vector<at::Tensor> saved;                  // inputs and results that the backward pass reads; may be undefined
  std::vector<c10::IValue> constants = {};        // numbers that it reads
  std::vector<at::Tensor> without_gradient = {};  // results of floating type that have none
};

struct BackwardPass {
  std::vector<at::Tensor> grad;  // of each result; zeros where none arrived
  std::vector<at::Tensor> saved;
  std::vector<c10::IValue> constants;
  std::vector<bool> needed;  // whether the gradient of each input is wanted
};

// The gradients of the inputs in their order; an undefined one is none. It calls registered operators, never a kernel,
// so that torch.compile sees it.
using Backward = std::vector<at::Tensor>(const BackwardPass&);

namespace operator_detail {

using torch::autograd::variable_list;

// Runs `backward` without recording. Where a second derivative could reach the gradients, taking it throws
// "WHO: a second derivative is not implemented".
variable_list run_backward(Backward* backward, const torch::autograd::AutogradContext& context,
                           const variable_list& grad);
void save(torch::autograd::AutogradContext& context, const char* who, const std::vector<bool>& given,
          ForwardPass& pass);

template <auto kBackward>
struct OnceDifferentiable : torch::autograd::Function<OnceDifferentiable<kBackward>> {
  static variable_list forward(torch::autograd::AutogradContext* context, const char* who,
                               const std::vector<bool>& given, const std::function<ForwardPass()>& run,
                               const at::TensorList& /*inputs*/) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    ForwardPass pass = run();
    save(*context, who, given, pass);
    return pass.results;
  }
  static variable_list backward(torch::autograd::AutogradContext* context, const variable_list& grad) {
    return run_backward(kBackward, *context, grad);
  }
};

}  // namespace operator_detail

// The results of `forward`, which runs below autograd; kBackward gives the gradients of `inputs`, of which undefined
// ones are none. Without a gradient to record it costs no more than `forward`.
template <auto kBackward>
std::vector<at::Tensor> once_differentiable(const char* who, const std::vector<at::Tensor>& inputs,
                                            const std::function<ForwardPass()>& forward) {
  std::vector<bool> given;
  std::vector<at::Tensor> defined;
  bool recorded = false;
  for (const at::Tensor& input : inputs) {
    given.push_back(input.defined());
    if (!input.defined()) continue;
    defined.push_back(input);
    recorded = recorded || input.requires_grad();
  }
  if (!recorded || !at::GradMode::is_enabled()) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return forward().results;
  }
  const at::TensorList list = defined;
  return operator_detail::OnceDifferentiable<kBackward>::apply(who, given, forward, list);
}

// The first kSize tensors as the tuple that an operator returns.
template <size_t kSize>
auto tuple_of(const std::vector<at::Tensor>& tensors) {
  return [&]<size_t... kAt>(std::index_sequence<kAt...>) {
    return std::make_tuple(tensors.at(kAt)...);
  }(std::make_index_sequence<kSize>{});
}

// For the key Autograd of an operator that has no gradient of its own, such as one that computes a gradient. Taking one
// throws "derivative for loci::x is not implemented".
torch::CppFunction not_differentiable();

// For the key ADInplaceOrView of an operator that writes into arguments, those of its schema marked "(a!)": moves their
// version counters, so that a graph that saved one of them refuses to use it. For the key Autograd such an operator has
// torch::CppFunction::makeFallthrough() or an entry that excludes only the autograd keys.
torch::CppFunction moves_versions();

// The same for an entry of once_differentiable, which runs below that key.
void moves_versions_of(const std::vector<at::Tensor>& written);

}  // namespace loci
