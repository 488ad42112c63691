// Rows as int8 with one float32 scale each: half the bytes of bfloat16, for tables that are served and not trained.
//
// Legend: N rows, D width.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

struct QuantisedRows {
  at::Tensor values;  // [N, D] int8, -127 .. 127
  at::Tensor scale;   // [N] float32: largest absolute value / 127, 0 for a row of zeros
};

// rows [N, D] of any real dtype; row = scale * values to within scale / 2, rounded half to even. Throws Error (numbers)
// when a value is not finite in float32.
QuantisedRows quantise_rows(const at::Tensor& rows);

}  // namespace loci
