// Batch norm of the queries and the search of a product-key memory in one: a step's queries are read twice in all (for
// the statistics and by the search), and no normalised query is ever in memory.
//
// Legend: T tokens, H heads, w width of half a query, n1, n2 sub-keys of the halves, K top_k.
//
// Estimate: of float32 queries of 4 C = 4 * 2 H w bytes a token, the two operators apart move 6 C more each way (batch
// norm's result, its sums' second look at x and the gradient) than this does.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace loci {

// Whether the kernels take it: float32 keys, float32 or bfloat16 x on CPU, enough tokens for blocks, sizes within theirs.
bool batch_norm_search_takes(const at::Tensor& x, const at::Tensor& keys1, const at::Tensor& keys2, int64_t top_k);

// x [T, H * 2 * w]; gain, bias, running_mean, running_variance [H * 2 * w]; keys1 [H, n1, w], keys2 [H, n2, w]
// -> score, index [T, H, K]. The same bits as batch_norm in training (nn/batch_norm.h), then product_key_search. Their
// gradients too, but for the order of batch norm's sums over tokens (chunks of 1024 or an eighth of T).
std::tuple<at::Tensor, at::Tensor> batch_norm_search(const at::Tensor& x, const at::Tensor& gain,
                                                     const at::Tensor& bias, const at::Tensor& running_mean,
                                                     const at::Tensor& running_variance, const at::Tensor& keys1,
                                                     const at::Tensor& keys2, int64_t top_k, int64_t addresses,
                                                     double momentum = 0.1, double epsilon = 1e-5);

}  // namespace loci
