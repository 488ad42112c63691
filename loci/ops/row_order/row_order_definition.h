// What the definition of row_order shares with its CPU path, with the sums of rows and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/ops/row_order/row_order.h"
#include "loci/ops/row_order/row_order_sort.h"

namespace loci {

void check_row_order(at::TensorList index, at::TensorList weight);
RowOrder row_order_definition(at::TensorList index, at::TensorList weight);

// One list of references with their sources given: row, coefficient, source_index [M]. `who` names the operator. Throws
// for a row below 0 or a source outside 0 .. sources-1, also where the coefficient is 0.
RowOrder order_references_definition(const char* who, const at::Tensor& row, const at::Tensor& coefficient,
                                     const at::Tensor& source_index, int64_t sources);
// The same on CPU.
RowOrder order_references_cpu(const char* who, const at::Tensor& row, const at::Tensor& coefficient,
                              const at::Tensor& source_index, int64_t sources);

// How many threads are worth it for `size` references.
int64_t reference_threads(int64_t size);
// Runs parts on the framework's threads.
RunParts framework_threads();

// Of a contiguous tensor in host memory. The first u with x[u] >= x[u + 1] (int64), or -1.
int64_t first_fall(const at::Tensor& x);
// The first position of a number outside 0 .. bound-1 (int32), or -1.
int64_t first_outside(const at::Tensor& x, int64_t bound);

}  // namespace loci
