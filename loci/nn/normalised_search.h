// The norm of the queries and the search of a product-key memory in one: the search makes normalised queries block by
// block, forward and backward, and they are never in memory. The same bits as the norm (batch_norm.h, half_norm.h) and
// product_key_search one after the other; their gradients too, but for the order in which those of gain and bias (and
// batch norm's sums) add up over tokens: chunks of 1024 or an eighth of T.
//
// Legend: T tokens, H heads, w width of half a query, C = H * 2 * w, n1, n2 sub-keys of the halves, K top_k.
//
// Estimate for float32, against the two apart: 8 C bytes a token less to write and 4 C less to read forward; backward
// 8 C and 8 C less with layer norm, 4 C less to read with batch norm, whose gradient waits for sums over all tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace loci {

// Whether the functions below take it: float32 keys, float32 or bfloat16 x [T, C] on CPU, more than four tokens (fewer
// are searched one by one), sizes within the kernels'.
bool search_normalises(const at::Tensor& x, const at::Tensor& keys1, const at::Tensor& keys2, int64_t top_k);

struct SearchSize {
  int64_t top_k, addresses;
};

// batch_norm in training, then product_key_search. x [T, C]; gain, bias and running statistics [C]; keys1 [H, n1, w],
// keys2 [H, n2, w] -> score, index [T, H, K].
std::tuple<at::Tensor, at::Tensor> batch_norm_search(const at::Tensor& x, const at::Tensor& gain,
                                                     const at::Tensor& bias, const at::Tensor& running_mean,
                                                     const at::Tensor& running_variance, const at::Tensor& keys1,
                                                     const at::Tensor& keys2, SearchSize size, double momentum = 0.1,
                                                     double epsilon = 1e-5);

// half_norm (layer norm, or RMS norm where bias is undefined) of x as float32, then product_key_search. x [T, C]; gain,
// bias [H, 2, w].
std::tuple<at::Tensor, at::Tensor> half_norm_search(const at::Tensor& x, const at::Tensor& gain,
                                                    const at::Tensor& bias, const at::Tensor& keys1,
                                                    const at::Tensor& keys2, SearchSize size, double epsilon = 1e-5);

}  // namespace loci
