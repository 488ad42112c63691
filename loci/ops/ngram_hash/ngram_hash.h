// Rows of a table by the last tokens: the address of an n-gram memory (Cheng et al. 2026, "Conditional memory via
// scalable lookup", Engram).
//
// Legend: B batch, L positions, n orders, K columns (pairs of an order and a hash head).
//
//   ngram_hash(tokens [B, L], starts [B, L], multipliers [n], orders (K numbers), modulus [K], offset [K], pad)
//     -> rows [B, L, K]
//     t_i = the token i positions before, or `pad` where it lies before position 0 or in an earlier document
//     h = t_0 * multipliers[0] ^ t_1 * multipliers[1] ^ ... ^ t_(m-1) * multipliers[m-1]      m = orders[k]
//     rows[b, l, k] = h mod modulus[k] + offset[k]                                            0 <= h mod p < p
//
// starts: bool, true where a token begins a document. tokens, multipliers, modulus and offset: int64; modulus at least
// 1. Products wrap around in 64 bits (two's complement). orders within 1 .. n. Integers alone: the same rows on every
// device, for any thread count and any cut of the batch. No gradient.
//
// A few small tensor operations an order, without a kernel: 0.05 ms for the 2,048 tokens of a small step with K = 3 on
// two threads of an AMD Zen 4.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace loci {

at::Tensor ngram_hash(const at::Tensor& tokens, const at::Tensor& starts, const at::Tensor& multipliers,
                      at::IntArrayRef orders, const at::Tensor& modulus, const at::Tensor& offset, int64_t pad);

}  // namespace loci
