// The sizes that the operators are measured at.
//
// Legend: T tokens, H heads, w width of half a query, n sub-keys of a half, K top_k, N rows, D width.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace loci::bench {

struct CaseSize {
  int64_t T, H, n, w, K, N, D;
};

// A product that may be beyond 64 bits.
inline double count(std::initializer_list<int64_t> factors) {
  double product = 1;
  for (int64_t factor : factors) product *= static_cast<double>(factor);
  return product;
}

}  // namespace loci::bench
