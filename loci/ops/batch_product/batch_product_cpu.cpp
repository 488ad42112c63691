#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "loci/ops/batch_product/batch_product_definition.h"
#include "loci/ops/pair_tiles.h"

// Legend: B batch, N rows, K summed, M columns.

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kProductRows = 128;

Tensor batch_product_cpu(const Tensor& a, const Tensor& b, double scale) {
  check_batch_product(a, b);
  const int64_t B = a.size(0), N = a.size(1), K = a.size(2), M = b.size(2);
  if (K == 0) return at::zeros({B, N, M}, a.options());
  const Tensor left = as_matrices(a), right = as_matrices(b);
  const Tensor y = at::empty({B, N, M}, a.options());
  if (M == 0) return y;
  for_each_pair_tile(B, N, kProductRows, K * M,
                     [&](const PairTile& tile) { product_into(tile.of(y), tile.of(left), tile.whole(right), scale); });
  return y;
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("batch_product", batch_product_cpu);
}

}  // namespace
}  // namespace loci
