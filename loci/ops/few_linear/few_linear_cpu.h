// The CPU path of few_linear at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "loci/base/cpu_level.h"

namespace loci {

at::Tensor few_linear_cpu(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                          CpuLevel level);

}  // namespace loci
