// How many n-grams of a text share a row with another one, by order: what the hash of an n-gram memory mixes up.
//
// Legend: B batch, L positions, K columns.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "loci/nn/memory/ngram_rows.h"

namespace loci {

// Holds about 50 bytes for each distinct n-gram and each row that it reads.
class NgramCollisions {
 public:
  explicit NgramCollisions(NgramRows rows);

  // tokens, starts [B, L] as for the memory; `counts` [B, L] bool, undefined for all: the positions that count.
  void add(const at::Tensor& tokens, const at::Tensor& starts, const at::Tensor& counts = {});

  struct Order {
    int64_t order = 0;
    int64_t distinct = 0;  // n-grams seen
    double shared = 0;     // share of them whose row another one has too; the mean over the heads. NaN without any
  };
  std::vector<Order> orders() const;  // ascending

 private:
  struct Seen {
    std::vector<size_t> columns;
    std::unordered_set<int64_t> ngrams;  // by a hash of 61 bits: two of 10^6 are equal once in 10^6 texts
  };
  NgramRows rows_, names_;
  std::vector<std::pair<int64_t, Seen>> orders_;
  std::vector<std::unordered_map<int64_t, int64_t>> ngrams_of_row_;  // a column each
};

}  // namespace loci
