// Weighted sums of table rows.
//
// Legend: T tokens, K reads of a token (heads x top_k), N rows, D width.
//
//   table_read(table [N, D], index [T, K], weight [T, K], scale [N]) -> [T, D]
//     out[t] = sum over r = 0 .. K-1, in this order, of weight[t, r] * table[index[t, r]]
//     int8 rows: of (weight[t, r] * scale[index[t, r]]) * table[index[t, r]]
//
// table: float64, float32, bfloat16 or float16, or int8 with the float32 scale of each row. weight: float32 (float64
// for a float64 table); the sum is made, and returned, in weight's dtype. index: int64 within 0 .. N-1, checked on CPU
// always (IndexError). Gradient: to table (but not to int8 rows) and weight; index and scale get none.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace loci {

at::Tensor table_read(const at::Tensor& table, const at::Tensor& index, const at::Tensor& weight,
                      const std::optional<at::Tensor>& scale = std::nullopt);

// The dense gradient of the table, [N, D] in the table's dtype; grad [T, D] in weight's dtype. Training uses row
// references instead (table/table.h). It is that of table_project too, with x in the place of grad.
at::Tensor table_read_backward_table(const at::Tensor& grad, const at::Tensor& table, const at::Tensor& index,
                                     const at::Tensor& weight);

}  // namespace loci
