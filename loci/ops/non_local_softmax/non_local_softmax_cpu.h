// The CPU path of non_local_softmax for large maps, at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "loci/base/cpu_level.h"

namespace loci {

at::Tensor non_local_softmax_cpu(const at::Tensor& theta, const at::Tensor& phi, const at::Tensor& g, double scale,
                                 CpuLevel level);
std::tuple<at::Tensor, at::Tensor, at::Tensor> non_local_softmax_backward_cpu(const at::Tensor& grad,
                                                                              const at::Tensor& theta,
                                                                              const at::Tensor& phi,
                                                                              const at::Tensor& g, double scale,
                                                                              CpuLevel level);

}  // namespace loci
