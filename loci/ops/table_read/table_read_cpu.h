// The CPU path of table_read and table_project at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "loci/base/cpu_level.h"

namespace loci {

at::Tensor table_read_cpu(const at::Tensor& table, const at::Tensor& index, const at::Tensor& weight,
                          const std::optional<at::Tensor>& scale, CpuLevel level);
at::Tensor table_project_cpu(const at::Tensor& table, const at::Tensor& index, const at::Tensor& x,
                             const std::optional<at::Tensor>& scale, CpuLevel level);

}  // namespace loci
