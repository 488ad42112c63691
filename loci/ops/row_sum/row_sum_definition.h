// What the definition of row_sum shares with its CPU path and its tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "loci/ops/row_sum/row_sum_kernel.h"

namespace loci {

void check_row_sum(const at::Tensor& row, const at::Tensor& coefficient, const at::Tensor& source_index,
                   const at::Tensor& source);

std::tuple<at::Tensor, at::Tensor> row_sum_definition(const at::Tensor& row, const at::Tensor& coefficient,
                                                      const at::Tensor& source_index, const at::Tensor& source);

}  // namespace loci
