#include "loci/ops/non_local_softmax/non_local_softmax.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/softmax.h>

#include "loci/ops/non_local_softmax/non_local_softmax_definition.h"
#include "loci/ops/operator.h"
#include "loci/ops/pair_check.h"

// Legend: B batch, N queries, M keys, I inner width, V width of a value.

namespace loci {

using at::Tensor;

namespace {

Tensor softmax_weights(const Tensor& theta, const Tensor& phi, double scale) {
  return at::softmax(at::bmm(theta, phi.transpose(1, 2)) * scale, -1);  // [B, N, M]
}

}  // namespace

Tensor non_local_softmax_definition(const Tensor& theta, const Tensor& phi, const Tensor& g, double scale) {
  check_pairs("non_local_softmax", theta, phi, g);
  return at::bmm(softmax_weights(theta, phi, scale), g);
}

void check_non_local_softmax_backward(const Tensor& grad, const Tensor& theta, const Tensor& phi, const Tensor& g) {
  constexpr const char* who = "non_local_softmax_backward";
  check_pairs(who, theta, phi, g);
  check_pair_type(who, "grad", grad, "theta", theta);
  TORCH_CHECK(grad.dim() == 3 && grad.sym_size(0) == theta.sym_size(0) && grad.sym_size(1) == theta.sym_size(1) &&
                  grad.sym_size(2) == g.sym_size(2),
              who, ": grad must be [", theta.sym_size(0), ", ", theta.sym_size(1), ", ", g.sym_size(2),
              "] like the result, got ", grad.sym_sizes());
}

// With s the logits before scaling and dp = dy g^T: ds = scale * p (dp - sum over j of p dp).
std::tuple<Tensor, Tensor, Tensor> non_local_softmax_backward_definition(const Tensor& grad, const Tensor& theta,
                                                                         const Tensor& phi, const Tensor& g,
                                                                         double scale) {
  check_non_local_softmax_backward(grad, theta, phi, g);
  const Tensor p = softmax_weights(theta, phi, scale);                        // [B, N, M]
  const Tensor dp = at::bmm(grad, g.transpose(1, 2));                         // [B, N, M]
  const Tensor ds = (p * (dp - (p * dp).sum(-1, /*keepdim=*/true))) * scale;  // [B, N, M]
  return {at::bmm(ds, phi), at::bmm(ds.transpose(1, 2), theta), at::bmm(p.transpose(1, 2), grad)};
}

namespace {

std::tuple<Tensor, Tensor, Tensor> non_local_softmax_backward(const Tensor& grad, const Tensor& theta,
                                                              const Tensor& phi, const Tensor& g, double scale) {
  return call_operator<"loci::non_local_softmax_backward", decltype(non_local_softmax_backward)>(grad, theta, phi, g,
                                                                                                 scale);
}

std::vector<Tensor> non_local_softmax_gradient(const BackwardPass& pass) {
  const auto [theta, phi, g] = non_local_softmax_backward(pass.grad[0], pass.saved[0], pass.saved[1], pass.saved[2],
                                                          pass.constants[0].toDouble());
  return {theta, phi, g};
}

Tensor non_local_softmax_autograd_entry(const Tensor& theta, const Tensor& phi, const Tensor& g, double scale) {
  return once_differentiable<non_local_softmax_gradient>("non_local_softmax", {theta, phi, g}, [&] {
    return ForwardPass{{non_local_softmax(theta, phi, g, scale)}, {theta, phi, g}, {scale}};
  })[0];
}

}  // namespace

Tensor non_local_softmax(const Tensor& theta, const Tensor& phi, const Tensor& g, double scale) {
  return call_operator<"loci::non_local_softmax", decltype(non_local_softmax)>(theta, phi, g, scale);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "non_local_softmax(Tensor theta, Tensor phi, Tensor g, float scale=1.) -> Tensor",
                  non_local_softmax_definition, non_local_softmax_autograd_entry);
  define_operator(m,
                  "non_local_softmax_backward(Tensor grad, Tensor theta, Tensor phi, Tensor g, float scale)"
                  " -> (Tensor, Tensor, Tensor)",
                  non_local_softmax_backward_definition, not_differentiable());
}

}  // namespace loci
