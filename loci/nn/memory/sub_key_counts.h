// How often each sub-key of a product-key memory is part of what the search finds, for each head and half.
//
// Legend: T tokens, H heads, K top_k, n1, n2 sub-keys of the halves.
#pragma once

#include <cstdint>
#include <span>

#include "loci/distributed/collectives.h"
#include "loci/nn/memory/product_key_memory.h"
#include "loci/table/read_observer.h"

namespace loci {

// address [T, H, K] int64 on the CPU, counts [H, n1 + n2] int64: of each head the first half's, then the second's. The
// operator count_sub_keys_ is it.
void count_sub_keys(const at::Tensor& counts, const at::Tensor& address, int64_t n2);

class SubKeyCounts : public ReadObserver {
 public:
  explicit SubKeyCounts(const ProductKeyMemory& memory);
  void reads(const MemoryReads& reads) override;  // on the CPU

  // [H, n1 + n2], as of count_sub_keys(). To save and to copy into.
  const at::Tensor& state() const { return counts_; }
  std::span<const int64_t> of(int64_t head, int64_t half) const;
  int64_t heads() const { return counts_.size(0); }
  int64_t sub_keys(int64_t half) const { return half == 0 ? n1_ : n2_; }
  void clear();
  // What all ranks count together, each its own tokens. Every rank calls it at the same time.
  SubKeyCounts merged(const Ranks& ranks) const;

 private:
  int64_t n1_, n2_;
  at::Tensor counts_;
};

// A sub-key is dead when it was read less often than this share of the mean over its half.
constexpr double kDeadShare = 0.1;
// The counts of a head and half among those of count_sub_keys().
std::span<const int64_t> counts_of_half(const at::Tensor& counts, int64_t n1, int64_t head, int64_t half);
// The least count of a sub-key that is not dead, with a share of one's own. 0 in a half that was not read: none is
// dead.
double least_live_count(std::span<const int64_t> counts, double dead_below);
// Share of all sub-keys that are not dead by kDeadShare.
double alive_share(const SubKeyCounts& counts);

}  // namespace loci
