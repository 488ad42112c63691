#include "loci/ops/non_local_concat/non_local_concat.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/threshold.h>
#include <ATen/ops/where.h>

#include "loci/ops/non_local_concat/non_local_concat_definition.h"
#include "loci/ops/operator.h"
#include "loci/ops/pair_check.h"

// Legend: B batch, N queries, M keys, V width of a value.

namespace loci {

using at::Tensor;

void check_non_local_concat(const char* who, const Tensor& a, const Tensor& b, const Tensor& g) {
  TORCH_CHECK(a.dim() == 2 && at::isFloatingType(a.scalar_type()), who, ": a must be [B, N] of a floating type, got ",
              a.sym_sizes(), " of ", a.scalar_type());
  check_pair_type(who, "b", b, "a", a);
  check_pair_type(who, "g", g, "a", a);
  TORCH_CHECK(b.dim() == 2 && b.sym_size(0) == a.sym_size(0) && b.sym_size(1) >= 1, who, ": b must be [", a.sym_size(0),
              ", M >= 1], got ", b.sym_sizes());
  TORCH_CHECK(g.dim() == 3 && g.sym_size(0) == b.sym_size(0) && g.sym_size(1) == b.sym_size(1), who, ": g must be [",
              b.sym_size(0), ", ", b.sym_size(1), ", V], got ", g.sym_sizes());
}

void check_non_local_concat_backward(const Tensor& grad, const Tensor& a, const Tensor& b, const Tensor& g) {
  constexpr const char* who = "non_local_concat_backward";
  check_non_local_concat(who, a, b, g);
  check_pair_gradient(who, grad, "a", a, g);
}

namespace {

Tensor pair_sums(const Tensor& a, const Tensor& b) {
  return a.unsqueeze(2) + b.unsqueeze(1);  // [B, N, M]
}

// at::relu has no Meta kernel.
Tensor relu_of(const Tensor& x) {
  return at::threshold(x, 0, 0);
}

}  // namespace

Tensor non_local_concat_definition(const Tensor& a, const Tensor& b, const Tensor& g) {
  check_non_local_concat("non_local_concat", a, b, g);
  return at::bmm(relu_of(pair_sums(a, b)), g) / b.sym_size(1);
}

std::tuple<Tensor, Tensor, Tensor> non_local_concat_backward_definition(const Tensor& grad, const Tensor& a,
                                                                        const Tensor& b, const Tensor& g) {
  check_non_local_concat_backward(grad, a, b, g);
  const Tensor sums = pair_sums(a, b), dy = grad / b.sym_size(1);
  const Tensor ds = at::where(sums <= 0, 0, at::bmm(dy, g.transpose(1, 2)));  // [B, N, M]
  return {ds.sum(2), ds.sum(1), at::bmm(relu_of(sums).transpose(1, 2), dy)};
}

namespace {

std::tuple<Tensor, Tensor, Tensor> non_local_concat_backward(const Tensor& grad, const Tensor& a, const Tensor& b,
                                                             const Tensor& g) {
  return call_operator<"loci::non_local_concat_backward", decltype(non_local_concat_backward)>(grad, a, b, g);
}

std::vector<Tensor> non_local_concat_gradient(const BackwardPass& pass) {
  const auto [a, b, g] = non_local_concat_backward(pass.grad[0], pass.saved[0], pass.saved[1], pass.saved[2]);
  return {a, b, g};
}

Tensor non_local_concat_autograd_entry(const Tensor& a, const Tensor& b, const Tensor& g) {
  return once_differentiable<non_local_concat_gradient>(
      "non_local_concat", {a, b, g}, [&] { return ForwardPass{{non_local_concat(a, b, g)}, {a, b, g}}; })[0];
}

}  // namespace

Tensor non_local_concat(const Tensor& a, const Tensor& b, const Tensor& g) {
  return call_operator<"loci::non_local_concat", decltype(non_local_concat)>(a, b, g);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "non_local_concat(Tensor a, Tensor b, Tensor g) -> Tensor", non_local_concat_definition,
                  non_local_concat_autograd_entry);
  define_operator(m, "non_local_concat_backward(Tensor grad, Tensor a, Tensor b, Tensor g) -> (Tensor, Tensor, Tensor)",
                  non_local_concat_backward_definition, not_differentiable());
}

}  // namespace loci
