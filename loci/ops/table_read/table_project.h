// Inner products of table rows with their token's vector: the counterpart of table_read, and the gradient of its
// weights.
//
// Legend: T tokens, K rows of a token, N rows, D width.
//
//   table_project(table [N, D], index [T, K], x [T, D], scale [N]) -> [T, K]
//     out[t, r] = <table[index[t, r]], x[t]>, of int8 rows times scale[index[t, r]]
//
// Dtypes and index as in table_read.h: x and the result are float32, float64 for a float64 table. Each product is
// summed in 16 partial sums, the same at every CPU level. Gradient: to table (but not to int8 rows) and x; index and
// scale get none.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace loci {

at::Tensor table_project(const at::Tensor& table, const at::Tensor& index, const at::Tensor& x,
                         const std::optional<at::Tensor>& scale = std::nullopt);

}  // namespace loci
