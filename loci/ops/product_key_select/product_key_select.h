// The exact search of product-key memory, as a function of the two sub-score vectors alone.
// (Lample et al. 2019, "Large Memory Layers with Product Keys", section 3.2.)
//
// Legend: T tokens, H heads, n1, n2 sub-keys of the halves, K top_k, A addresses.
//
//   product_key_select(score1 [T, H, n1], score2 [T, H, n2], top_k, addresses) -> (score, index) [T, H, K]
//     for every token and head:
//       candidates = all pairs (i, j) with i * n2 + j < addresses, address i * n2 + j
//       order: the larger real-number sum score1[i] + score2[j] first; equal sums: the lower address first;
//              NaN above everything
//       the best top_k of them: score = the rounded sum, index = the address (int64)
//
// Only pairs of ranks a, b (from 1, within their halves) with a * b <= K can win, which leaves about K ln K candidates.
// Scores are float32 or float64. 1 <= top_k <= addresses <= n1 * n2. Indices are constants for the gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace loci {

std::tuple<at::Tensor, at::Tensor> product_key_select(const at::Tensor& score1, const at::Tensor& score2, int64_t top_k,
                                                      int64_t addresses);

// The gradient of the sub-scores, [T, H, n1] and [T, H, n2]: each selected pair hands its own to its two sub-scores.
std::tuple<at::Tensor, at::Tensor> product_key_select_backward(const at::Tensor& grad_score, const at::Tensor& index,
                                                               c10::SymInt n1, c10::SymInt n2);

}  // namespace loci
