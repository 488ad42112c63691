// The CPU path of product_key_search at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <tuple>

#include "loci/base/cpu_level.h"

namespace loci {

std::tuple<at::Tensor, at::Tensor> product_key_search_cpu(const at::Tensor& query, const at::Tensor& keys1,
                                                          const at::Tensor& keys2, int64_t top_k, int64_t addresses,
                                                          CpuLevel level);
std::tuple<at::Tensor, at::Tensor, at::Tensor> search_backward_cpu(const at::Tensor& grad_score,
                                                                   const at::Tensor& index, const at::Tensor& query,
                                                                   const at::Tensor& keys1, const at::Tensor& keys2,
                                                                   std::array<bool, 3> needed, CpuLevel level);

}  // namespace loci
