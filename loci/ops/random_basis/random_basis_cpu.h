// The CPU path of random_basis.h at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/base/cpu_level.h"
#include "loci/ops/random_basis/random_basis.h"

namespace loci {

at::Tensor random_basis_dot_cpu(const at::Tensor& gradient, int64_t first, int64_t directions, const BasisKey& key,
                                CpuLevel level);
void random_basis_add_cpu(const at::Tensor& theta, const at::Tensor& coefficients, double factor, int64_t first,
                          const BasisKey& key, CpuLevel level);

}  // namespace loci
