// An even sample of the queries that a memory searched with, for keys that are drawn anew from them (reinitialise.h).
//
// Legend: T tokens, H heads, w width of half a query.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "loci/nn/memory/product_key_memory.h"
#include "loci/table/read_observer.h"

namespace loci {

// Algorithm R for the tokens of query [T, H, 2, w], any floating type: `queries` [S, H, 2, w] float32 keeps S of them
// or fewer. `seen` [2] int64: tokens since begin() and the number of the window. The operator sample_queries_ is it.
void sample_queries(const at::Tensor& queries, const at::Tensor& seen, const at::Tensor& query, uint64_t seed,
                    const std::string& name);

// Of all tokens since begin(), each is kept with the same probability. Which are, depends on (seed, name,
// window, order of the tokens) alone.
class QueryReservoir : public ReadObserver {
 public:
  static constexpr int64_t kSize = 4096;  // tokens

  QueryReservoir(const ProductKeyMemory& memory, uint64_t seed, std::string name);
  void begin(int64_t window);  // forgets the tokens of the window before
  void reads(const MemoryReads& reads) override;

  int64_t size() const;                                     // tokens kept
  const at::Tensor& queries() const { return queries_; }    // [kSize, H, 2, w] float32; the first size() are kept
  std::vector<std::pair<std::string, at::Tensor>> state();  // to save and to copy into
  static int64_t bytes(int64_t heads, int64_t half_width) { return kSize * heads * 2 * half_width * 4; }

 private:
  uint64_t seed_;
  std::string name_;
  at::Tensor queries_;
  at::Tensor seen_;  // [2] int64: tokens of the window, number of the window
};

}  // namespace loci
