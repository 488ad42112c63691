// Sums sorted row references into one gradient per distinct row, with the same bits for any thread count.
//
// Legend: M references, S sources, D width, U distinct rows.
//
//   row_sum(row [U], begin [U + 1], source_index [M], coefficient [M], source [S, D]) -> gradient [U, D]
//     gradient[u] = sums of blocks of 128 consecutive references (each block in sequence), the block sums in sequence
//                   of coefficient[m] * source[source_index[m]], m within begin[u] .. begin[u + 1] - 1
//
// The first four are an order as row_order makes it: begin ascends strictly from 0 to M. Every source_index is within
// 0 .. S-1. coefficient and source: float32, or both float64. It has no gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/ops/row_order/row_order.h"

namespace loci {

at::Tensor row_sum(const RowOrder& order, const at::Tensor& source);

}  // namespace loci
