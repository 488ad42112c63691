// Sorts the row references that reads left by row, in a fixed order.
//
// Legend: T tokens and K reads of a token of one list, M references whose weight is not 0, U distinct rows.
//
//   row_order(index [T, K] ..., weight [T, K] ...) -> row [U], begin [U + 1], source [M], coefficient [M]
//     references whose weight is exactly 0 are dropped: they do not touch their row
//     stable sort by row: the references of row[u] are begin[u] .. begin[u + 1] - 1, ordered by list, token, position
//     source numbers the tokens of all lists in sequence
//
// index: int64 >= 0 (checked for dropped references too); weight: float32 or float64, of one dtype; below 2^31 tokens
// in all. It has no gradient. Its sizes depend on the data: torch.compile runs it between two graphs.
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
