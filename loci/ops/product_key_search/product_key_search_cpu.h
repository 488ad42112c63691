// The CPU path of product_key_search at a given level, for tests and for nn/batch_norm_search.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "loci/base/cpu_level.h"

namespace loci {

// Up to so many tokens are searched one by one, with other sums than in blocks.
inline constexpr int64_t kFewTokens = 4;

std::tuple<at::Tensor, at::Tensor> product_key_search_cpu(const at::Tensor& query, const at::Tensor& keys1,
                                                          const at::Tensor& keys2, int64_t top_k, int64_t addresses,
                                                          CpuLevel level);
std::tuple<at::Tensor, at::Tensor, at::Tensor> search_backward_cpu(const at::Tensor& grad_score,
                                                                   const at::Tensor& index, const at::Tensor& query,
                                                                   const at::Tensor& keys1, const at::Tensor& keys2,
                                                                   CpuLevel level);

// The same for queries that are normalised as they are read, so that no normalised query is ever in memory:
// (x - mean) * factor + bias. x [T, H, 2, w] contiguous, float32 or bfloat16; constants [4, H * 2 * w] float32: the
// mean as a sum of two, factor, bias; keys float32. For sizes that product_key_select_cpu_takes.
std::tuple<at::Tensor, at::Tensor> normalised_search_cpu(const at::Tensor& x, const at::Tensor& constants,
                                                         const at::Tensor& keys1, const at::Tensor& keys2,
                                                         int64_t top_k, int64_t addresses, CpuLevel level);
struct NormalisedSearchGradient {
  at::Tensor query, keys1, keys2;  // of the normalised queries [T, H, 2, w] and the keys, float32
  at::Tensor sums;                 // [2, H * 2 * w] float64 over the tokens: of `query`, of query * (x - mean)
};
NormalisedSearchGradient normalised_search_backward_cpu(const at::Tensor& grad_score, const at::Tensor& index,
                                                        const at::Tensor& x, const at::Tensor& constants,
                                                        const at::Tensor& keys1, const at::Tensor& keys2,
                                                        CpuLevel level);

}  // namespace loci
