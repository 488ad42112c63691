// Product-key search: sub-scores of both query halves, then product_key_select.
//
// Legend: T tokens, H heads, w width of half a query, n1, n2 sub-keys of the halves, K top_k, A addresses.
//
//   product_key_search(query [T, H, 2, w], keys1 [H, n1, w], keys2 [H, n2, w], top_k, addresses)
//       -> (score, index) [T, H, K]
//     score1[t, h, i] = <query[t, h, 0], keys1[h, i]>      float32; float64 for float64 inputs; no scale
//     score2[t, h, j] = <query[t, h, 1], keys2[h, j]>
//     product_key_select(score1, score2, top_k, addresses)
//
// query and keys share a dtype: float64, float32, bfloat16 or float16 (the low ones are read to float32).
// Gradient: that of the selected scores to query and keys; unselected sub-keys get none.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <tuple>

namespace loci {

std::tuple<at::Tensor, at::Tensor> product_key_search(const at::Tensor& query, const at::Tensor& keys1,
                                                      const at::Tensor& keys2, int64_t top_k, int64_t addresses);

// The gradients of query, keys1 and keys2, in their shapes and dtypes; those that `needed` leaves out are undefined and
// cost nothing. grad_score, index [T, H, K] as the search gave them. Sub-keys are summed over the tokens in order.
std::tuple<at::Tensor, at::Tensor, at::Tensor> product_key_search_backward(
    const at::Tensor& grad_score, const at::Tensor& index, const at::Tensor& query, const at::Tensor& keys1,
    const at::Tensor& keys2, std::array<bool, 3> needed = {true, true, true});

}  // namespace loci
