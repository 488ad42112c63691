// What the definition of row_order shares with its CPU path, with the sums of rows and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "loci/ops/row_order/row_order.h"
#include "loci/ops/row_order/row_order_sort.h"

namespace loci {

void check_row_order(at::TensorList index, at::TensorList weight);
RowOrder row_order_definition(at::TensorList index, at::TensorList weight);

// One list of references with their sources given: row, coefficient, source_index [M].
RowOrder order_references_definition(const char* who, const at::Tensor& row, const at::Tensor& coefficient,
                                     const at::Tensor& source_index);
// The same on CPU; source_index within 0 .. sources-1.
RowOrder order_references_cpu(const char* who, const at::Tensor& row, const at::Tensor& coefficient,
                              const at::Tensor& source_index, int64_t sources);

// Parts on the framework's threads, as many as are worth it for `size` references.
int64_t reference_threads(int64_t size);
RunParts framework_threads();

}  // namespace loci
