#include "loci/ops/non_local_dot/non_local_dot.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>

#include "loci/ops/batch_product/batch_product.h"
#include "loci/ops/non_local_dot/non_local_dot_definition.h"
#include "loci/ops/operator.h"
#include "loci/ops/pair_check.h"

// Legend: B batch, N queries, M keys, I inner width, V width of a value.

namespace loci {

using at::Tensor;

bool associates(int64_t N, int64_t M, int64_t I, int64_t V) {
  // In double: the products may exceed 64 bits.
  const auto n = static_cast<double>(N), m = static_cast<double>(M);
  const auto i = static_cast<double>(I), v = static_cast<double>(V);
  return (n + m) * i * v < n * m * (i + v);
}

Tensor non_local_dot_definition(const Tensor& theta, const Tensor& phi, const Tensor& g) {
  check_pairs("non_local_dot", theta, phi, g);
  return at::bmm(at::bmm(theta, phi.transpose(1, 2)), g) / phi.sym_size(1);
}

Tensor non_local_dot(const Tensor& theta, const Tensor& phi, const Tensor& g) {
  return call_operator<"loci::non_local_dot", decltype(non_local_dot)>(theta, phi, g);
}

namespace {

// Made of operators that have gradients of their own, on every device.
Tensor non_local_dot_composition(const Tensor& theta, const Tensor& phi, const Tensor& g) {
  check_pairs("non_local_dot", theta, phi, g);
  // The order is chosen for these sizes; the batch stays symbolic.
  const auto size = [](const Tensor& x, int64_t at) { return x.sym_size(at).guard_int(__FILE__, __LINE__); };
  const int64_t M = size(phi, 1);
  const Tensor phi_t = phi.transpose(1, 2);
  const double scale = 1 / static_cast<double>(M);
  return associates(size(theta, 1), M, size(theta, 2), size(g, 2))
             ? batch_product(theta, batch_product(phi_t, g, scale))
             : batch_product(batch_product(theta, phi_t), g, scale);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def("non_local_dot(Tensor theta, Tensor phi, Tensor g) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.impl("non_local_dot", c10::DispatchKey::CompositeImplicitAutograd, non_local_dot_composition);
}

}  // namespace loci
