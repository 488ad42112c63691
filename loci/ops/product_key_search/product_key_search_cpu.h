// The CPU path of product_key_search at a given level, for tests and for nn/normalised_search.h.
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

// How queries [T, H, 2, w] are made from what the net gives: in the search, block by block, so that they are never in
// memory.
class QueryNormaliser {
 public:
  virtual ~QueryNormaliser() = default;
  // Writes those of one half of one head, tokens t .. t + tokens - 1: [tokens, w].
  virtual void normalise(int64_t t, int64_t h, int64_t half, int64_t tokens, float* to) const = 0;
  // Takes the gradient [tokens, w] of the same. No two threads call with the same chunk of tokens, h and half, and a
  // chunk's tokens come in their order.
  virtual void take_gradient(int64_t chunk, int64_t t, int64_t h, int64_t half, int64_t tokens,
                             const float* grad) const = 0;
};

// The search of what `queries` makes of x [T, H, 2, w], contiguous, float32 or bfloat16; keys float32. For sizes that
// product_key_select_cpu_takes.
std::tuple<at::Tensor, at::Tensor> normalised_search_cpu(const at::Tensor& x, const QueryNormaliser& queries,
                                                         const at::Tensor& keys1, const at::Tensor& keys2,
                                                         int64_t top_k, int64_t addresses, CpuLevel level);
// The gradients of the keys; those of the queries go to take_gradient, in search_gradient_chunks(T) chunks.
std::tuple<at::Tensor, at::Tensor> normalised_search_backward_cpu(const at::Tensor& grad_score,
                                                                  const at::Tensor& index, const at::Tensor& x,
                                                                  const QueryNormaliser& queries,
                                                                  const at::Tensor& keys1, const at::Tensor& keys2,
                                                                  CpuLevel level);
int64_t search_gradient_chunks(int64_t tokens);

}  // namespace loci
