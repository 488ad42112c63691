// What the definition of row_order shares with its CPU path, with the sums of rows and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/ops/row_order/row_order.h"
#include "loci/ops/row_order/row_order_sort.h"

namespace loci {

void check_row_order(at::TensorList index, at::TensorList weight);
RowOrder row_order_definition(at::TensorList index, at::TensorList weight);

// How many threads are worth it for `size` references.
int64_t reference_threads(int64_t size);
// Runs parts on the framework's threads.
RunParts framework_threads();

// Of a contiguous tensor in host memory. The first u with x[u] >= x[u + 1] (int64), or -1.
int64_t first_fall(const at::Tensor& x);
// The first position of a number outside 0 .. bound-1 (int32), or -1.
int64_t first_outside(const at::Tensor& x, int64_t bound);

}  // namespace loci
