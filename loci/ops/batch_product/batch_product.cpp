#include "loci/ops/batch_product/batch_product.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>

#include "loci/ops/batch_product/batch_product_definition.h"
#include "loci/ops/operator.h"

// Legend: B batch, N rows, K summed, M columns.

namespace loci {

using at::Tensor;

void check_batch_product(const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.dim() == 3 && at::isFloatingType(a.scalar_type()),
              "batch_product: a must be [B, N, K] of a floating type, got ", a.sym_sizes(), " of ", a.scalar_type());
  TORCH_CHECK(b.scalar_type() == a.scalar_type() && b.device() == a.device(), "batch_product: b must be ",
              a.scalar_type(), " on ", a.device(), " like a, got ", b.scalar_type(), " on ", b.device());
  TORCH_CHECK(b.dim() == 3 && b.sym_size(0) == a.sym_size(0) && b.sym_size(1) == a.sym_size(2),
              "batch_product: b must be [", a.sym_size(0), ", ", a.sym_size(2), ", M], got ", b.sym_sizes());
}

Tensor batch_product_definition(const Tensor& a, const Tensor& b, double scale) {
  check_batch_product(a, b);
  return at::bmm(a, b) * scale;
}

Tensor batch_product(const Tensor& a, const Tensor& b, double scale) {
  return call_operator<"loci::batch_product", decltype(batch_product)>(a, b, scale);
}

namespace {

std::vector<Tensor> batch_product_gradient(const BackwardPass& pass) {
  const Tensor &grad = pass.grad[0], &a = pass.saved[0], &b = pass.saved[1];
  const double scale = pass.constants[0].toDouble();
  return {pass.needed[0] ? batch_product(grad, b.transpose(1, 2), scale) : Tensor(),
          pass.needed[1] ? batch_product(a.transpose(1, 2), grad, scale) : Tensor()};
}

Tensor batch_product_autograd_entry(const Tensor& a, const Tensor& b, double scale) {
  return once_differentiable<batch_product_gradient>(
      "batch_product", {a, b}, [&] { return ForwardPass{{batch_product(a, b, scale)}, {a, b}, {scale}}; })[0];
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "batch_product(Tensor a, Tensor b, float scale=1.) -> Tensor", batch_product_definition,
                  batch_product_autograd_entry);
}

}  // namespace loci
