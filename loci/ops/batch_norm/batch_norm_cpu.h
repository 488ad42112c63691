// The CPU path of batch_norm at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "loci/base/cpu_level.h"

namespace loci {

std::tuple<at::Tensor, at::Tensor> batch_norm_cpu(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& bias,
                                                  const at::Tensor& running_mean, const at::Tensor& running_variance,
                                                  bool training, double momentum, double epsilon, CpuLevel level);
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_backward_cpu(const at::Tensor& grad, const at::Tensor& x,
                                                                       const at::Tensor& gain,
                                                                       const at::Tensor& statistics, bool of_batch,
                                                                       CpuLevel level);

}  // namespace loci
