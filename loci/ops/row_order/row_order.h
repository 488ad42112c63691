// The row references that reads left, grouped by row in a fixed order.
//
// Legend: T tokens and K reads of a token of one read, M references whose weight is not 0, U distinct rows.
//
//   row_order(index [T, K] ..., weight [T, K] ...) -> row [U], begin [U + 1], source [M], coefficient [M]
//     references whose weight is exactly 0 are dropped: they are no touch
//     stable sort by row: the references of row[u] are begin[u] .. begin[u + 1] - 1, in the order of the reads, their
//     tokens, their reads
//     source counts the tokens of all reads, as if their [T, ...] were one below the other
//
// index: int64 >= 0, weight: float32 or float64, of one dtype.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

struct RowOrder {
  at::Tensor row;          // [U] int64, ascending and distinct
  at::Tensor begin;        // [U + 1] int64
  at::Tensor source;       // [M] int32
  at::Tensor coefficient;  // [M]
};

RowOrder row_order(at::TensorList index, at::TensorList weight);

}  // namespace loci
