// The gradient of a table as row references: small, and nothing table-shaped ever exists.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loci/ops/row_order/row_order.h"

namespace loci {

// One read's share, as the triple (index, weight, output gradient). Legend: T tokens, K reads of a token, D width.
struct RowReferences {
  at::Tensor index;   // [T, K] int64
  at::Tensor weight;  // [T, K] float32 or float64
  at::Tensor grad;    // [T, D] gradient of the read's output, weight's dtype
  int64_t pass = 0;   // which backward pass since zero_gradient() (micro-batches)
  int64_t use = 0;    // registration number of the layer that read
};

// Summed: rows ascending and distinct.
struct RowGradient {
  at::Tensor row;       // [U] int64
  at::Tensor gradient;  // [U, D] float32 or float64
};

// Reads in the order of their sum, (pass, use), whatever order they arrived in.
struct OrderedReferences {
  RowOrder order;
  at::Tensor source;  // [S, D] output gradients, one read below the other
};
OrderedReferences order_references(std::vector<RowReferences> references, int64_t width);

// Sums references in the order (pass, use, position), whatever order they arrived in.
RowGradient sum_references(std::vector<RowReferences> references, int64_t width);

}  // namespace loci
