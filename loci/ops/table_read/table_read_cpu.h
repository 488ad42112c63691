// The CPU path of table_read at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/base/cpu_level.h"

namespace loci {

at::Tensor table_read_cpu(const at::Tensor& table, const at::Tensor& index, const at::Tensor& weight, CpuLevel level);
at::Tensor table_read_backward_weight_cpu(const at::Tensor& grad, const at::Tensor& table, const at::Tensor& index,
                                          CpuLevel level);

}  // namespace loci
