#include "loci/ops/non_local_softmax/non_local_softmax.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/softmax.h>

#include "loci/ops/batch_product/batch_product.h"
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
  check_pair_gradient(who, grad, "theta", theta, g);
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

Tensor softmax_blocks(const Tensor& theta, const Tensor& phi, const Tensor& g, double scale) {
  return call_operator<"loci::non_local_softmax_blocks", decltype(softmax_blocks)>(theta, phi, g, scale);
}

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

Tensor softmax_blocks_autograd_entry(const Tensor& theta, const Tensor& phi, const Tensor& g, double scale) {
  return once_differentiable<non_local_softmax_gradient>("non_local_softmax", {theta, phi, g}, [&] {
    return ForwardPass{{softmax_blocks(theta, phi, g, scale)}, {theta, phi, g}, {scale}};
  })[0];
}

Tensor non_local_softmax_composition(const Tensor& theta, const Tensor& phi, const Tensor& g, double scale) {
  check_pairs("non_local_softmax", theta, phi, g);
  // The way is chosen for these sizes; the batch stays symbolic.
  const auto size = [](const Tensor& x, int64_t at) { return x.sym_size(at).guard_int(__FILE__, __LINE__); };
  if (!keeps_weights(size(theta, 1), size(phi, 1), size(theta, 2), size(g, 2))) {
    return softmax_blocks(theta, phi, g, scale);
  }
  return batch_product(at::softmax(batch_product(theta, phi.transpose(1, 2), scale), -1), g);
}

}  // namespace

bool keeps_weights(int64_t N, int64_t M, int64_t I, int64_t V) {
  // In double: the products may exceed 64 bits.
  const auto n = static_cast<double>(N), m = static_cast<double>(M);
  return n * m <= 2 * (n * static_cast<double>(I) + m * static_cast<double>(I + V));
}

Tensor non_local_softmax(const Tensor& theta, const Tensor& phi, const Tensor& g, double scale) {
  return call_operator<"loci::non_local_softmax", decltype(non_local_softmax)>(theta, phi, g, scale);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def("non_local_softmax(Tensor theta, Tensor phi, Tensor g, float scale=1.) -> Tensor",
        {at::Tag::pt2_compliant_tag});
  m.impl("non_local_softmax", c10::DispatchKey::CompositeImplicitAutograd, non_local_softmax_composition);
  define_operator(m, "non_local_softmax_blocks(Tensor theta, Tensor phi, Tensor g, float scale) -> Tensor",
                  non_local_softmax_definition, softmax_blocks_autograd_entry);
  define_operator(m,
                  "non_local_softmax_backward(Tensor grad, Tensor theta, Tensor phi, Tensor g, float scale)"
                  " -> (Tensor, Tensor, Tensor)",
                  non_local_softmax_backward_definition, not_differentiable());
}

}  // namespace loci
