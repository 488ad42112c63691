// What the definition of row_sum shares with its CPU path, with the update of rows and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "loci/ops/row_sum/row_sum.h"
#include "loci/ops/row_sum/row_sum_kernel.h"

namespace loci {

void check_row_sum(const at::Tensor& row, const at::Tensor& coefficient, const at::Tensor& source_index,
                   const at::Tensor& source);
// `who` names the operator.
void check_references(const char* who, const RowOrder& order, const at::Tensor& source);
void check_references_cpu(const char* who, const RowOrder& order,
                          const at::Tensor& source);  // and that nothing leaves it

std::tuple<at::Tensor, at::Tensor> row_sum_definition(const at::Tensor& row, const at::Tensor& coefficient,
                                                      const at::Tensor& source_index, const at::Tensor& source);
at::Tensor row_sum_definition(const RowOrder& order, const at::Tensor& source);

}  // namespace loci
