// The CPU path of product_key_select at a given level, for the search that uses it and for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "loci/base/cpu_level.h"

namespace loci {

std::tuple<at::Tensor, at::Tensor> product_key_select_cpu(const at::Tensor& score1, const at::Tensor& score2,
                                                          int64_t top_k, int64_t addresses, CpuLevel level);

// Whether the kernel takes these sizes; else the definition does the work.
bool product_key_select_cpu_takes(int64_t n1, int64_t n2, int64_t top_k);

// The same for sub-scores [T, H, n] of any strides but the last, into contiguous score and index [T, H, K].
void product_key_select_into(const at::Tensor& score1, const at::Tensor& score2, int64_t addresses, at::Tensor& score,
                             at::Tensor& index, CpuLevel level);

}  // namespace loci
