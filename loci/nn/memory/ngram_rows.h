// How the rows of a table are given to n-grams: the arguments of ops/ngram_hash.
//
// Legend: V vocabulary, n orders, K columns (pairs of an order and a hash head).
//
// The table is cut into K ranges, one for each pair; a range has as many rows as its modulus, a prime of its own:
//   order 1      the smallest prime above V, when half of the rows hold it (all rows, without another order): one head,
//                and no collision, for token * multiplier does not wrap and the prime divides neither factor
//   all others   the largest prime that is not taken yet and not above an even share of the other rows
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace loci {

struct NgramRows {
  at::Tensor multipliers;       // [n]
  std::vector<int64_t> orders;  // of the K columns, ascending
  at::Tensor modulus, offset;   // [K]
  int64_t pad = 0;              // V, which is no token

  // tokens [B, L], starts [B, L] -> rows [B, L, K].
  at::Tensor of(const at::Tensor& tokens, const at::Tensor& starts) const;
  int64_t longest() const { return orders.back(); }
};

// Columns that ngram_rows() gives, the same for any seed. `orders` within 1 .. kLongestNgram, each once.
constexpr int64_t kLongestNgram = 16;
int64_t ngram_columns(const std::vector<int64_t>& orders, int64_t hash_heads, int64_t rows, int64_t vocabulary);

// Multipliers are drawn by counter from `seed`: odd, at most (2^63 - 1) / V, and no multiple of a modulus. Throws Error
// (usage) for orders that are not as above, and where the rows are too few for K primes.
NgramRows ngram_rows(const std::vector<int64_t>& orders, int64_t hash_heads, int64_t rows, int64_t vocabulary,
                     uint64_t seed);

}  // namespace loci
