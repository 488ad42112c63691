// What the definition of row_sum shares with its CPU path, with the update of rows and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/ops/row_sum/row_sum.h"
#include "loci/ops/row_sum/row_sum_kernel.h"

namespace loci {

// `who` names the operator. The values too: begin ascends, and every source exists.
void check_references(const char* who, const RowOrder& order, const at::Tensor& source);

at::Tensor row_sum_definition(const RowOrder& order, const at::Tensor& source);

RowOrder contiguous(const RowOrder& order);

// The kernel's view of contiguous tensors.
template <class Real>
RowSumArguments<Real> sum_arguments(const RowOrder& order, const at::Tensor& source) {
  return {order.begin.const_data_ptr<int64_t>(), order.source.const_data_ptr<int32_t>(),
          order.coefficient.const_data_ptr<Real>(), source.const_data_ptr<Real>(), source.size(1)};
}

}  // namespace loci
