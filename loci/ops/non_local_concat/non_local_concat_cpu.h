// The CPU path of non_local_concat at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "loci/base/cpu_level.h"

namespace loci {

at::Tensor non_local_concat_cpu(const at::Tensor& a, const at::Tensor& b, const at::Tensor& g, CpuLevel level);
std::tuple<at::Tensor, at::Tensor, at::Tensor> non_local_concat_backward_cpu(const at::Tensor& grad,
                                                                             const at::Tensor& a, const at::Tensor& b,
                                                                             const at::Tensor& g, CpuLevel level);

}  // namespace loci
