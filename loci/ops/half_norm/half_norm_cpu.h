// The CPU path of half_norm at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "loci/base/cpu_level.h"

namespace loci {

std::tuple<at::Tensor, at::Tensor, at::Tensor> half_norm_cpu(const at::Tensor& x, const at::Tensor& gain,
                                                             const std::optional<at::Tensor>& bias, double epsilon,
                                                             CpuLevel level);
std::tuple<at::Tensor, at::Tensor, at::Tensor> half_norm_backward_cpu(const at::Tensor& grad, const at::Tensor& x,
                                                                      const at::Tensor& gain, const at::Tensor& mean,
                                                                      const at::Tensor& scale, bool has_bias,
                                                                      CpuLevel level);

}  // namespace loci
