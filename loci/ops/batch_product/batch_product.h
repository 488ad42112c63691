// Batched matrix product whose bits do not depend on the number of threads: every thread computes whole tiles, whose
// sizes follow from the operands' alone. (A product that is itself split among threads may sum in another order.)
//
// Legend: B batch, N rows, K summed, M columns.
//
//   batch_product(a [B, N, K], b [B, K, M], scale) -> y [B, N, M]
//     y[i] = scale * a[i] b[i]
//
// Both of one floating type on one device; transposed views are read as they are. y is contiguous. Gradient: to a and
// b, once.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

at::Tensor batch_product(const at::Tensor& a, const at::Tensor& b, double scale = 1);

}  // namespace loci
