// The CPU path of binary_linear.h at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/base/cpu_level.h"

namespace loci {

at::Tensor sign_pack_cpu(const at::Tensor& x, CpuLevel level);
at::Tensor binary_linear_cpu(const at::Tensor& a, const at::Tensor& b, int64_t inputs, CpuLevel level);
at::Tensor binary_threshold_cpu(const at::Tensor& y, const at::Tensor& threshold, const at::Tensor& turned,
                                CpuLevel level);
at::Tensor binary_layer_cpu(const at::Tensor& a, const at::Tensor& b, int64_t inputs, const at::Tensor& threshold,
                            const at::Tensor& turned, CpuLevel level);

}  // namespace loci
