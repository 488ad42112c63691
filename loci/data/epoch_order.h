// The order in which training visits N items, epoch after epoch: each item once an epoch, in another order each time.
// A pure function of (seed, position) that holds nothing but three numbers, so that a run goes on from any position.
#pragma once

#include <cstdint>

namespace loci {

class EpochOrder {
 public:
  // Throws Error (usage) unless there is at least one item.
  EpochOrder(int64_t items, uint64_t seed);

  struct Visit {
    int64_t epoch;
    int64_t item;  // 0 .. items-1
  };
  // The visit at `position`, which counts on through all epochs. Throws Error (bug) for a negative one.
  Visit at(int64_t position) const;

  int64_t items() const { return items_; }

 private:
  int64_t items_;
  uint64_t seed_;
};

}  // namespace loci
