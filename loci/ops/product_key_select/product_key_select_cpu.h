// The CPU path of product_key_select at a given level, for the search that uses it and for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "loci/base/cpu_level.h"
#include "loci/ops/product_key_select/product_key_select_kernel.h"

namespace loci {

std::tuple<at::Tensor, at::Tensor> product_key_select_cpu(const at::Tensor& score1, const at::Tensor& score2,
                                                          int64_t top_k, int64_t addresses, CpuLevel level);

// Whether the kernel takes these sizes; else the definition does the work.
bool product_key_select_cpu_takes(int64_t n1, int64_t n2, int64_t top_k);

const ProductKeySelectKernel& product_key_select_kernel_of(CpuLevel level);

}  // namespace loci
