// Sums row references into one gradient per distinct row, with the same bits for any thread count.
//
// Legend: M references, S sources, D width, U distinct rows.
//
//   row_sum(row [M], coefficient [M], source_index [M], source [S, D]) -> (row [U], gradient [U, D])
//     references whose coefficient is exactly 0 are dropped: they are no touch
//     stable sort by row; for every distinct row, ascending:
//       gradient[u] = sums of blocks of 128 consecutive references (each block in sequence), the block sums in sequence
//                     of coefficient * source[source_index]
//
// row: int64 >= 0; source_index: int64 within 0 .. S-1; coefficient and source: float32 (or both float64). Rows and
// sources of dropped references are checked too. Neither form has a gradient. The size U of the first form depends on
// the data: torch.compile runs it between two graphs. The second form is compiled.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "loci/ops/row_order/row_order.h"

namespace loci {

std::tuple<at::Tensor, at::Tensor> row_sum(const at::Tensor& row, const at::Tensor& coefficient,
                                           const at::Tensor& source_index, const at::Tensor& source);

// The same for references that are sorted already: gradient [U, D].
at::Tensor row_sum(const RowOrder& order, const at::Tensor& source);

}  // namespace loci
