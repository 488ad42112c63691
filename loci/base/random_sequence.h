// Draws one after another from a CounterRandom. The position is the whole state, so that a sequence can be saved,
// resumed, or started anywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "loci/base/random.h"

namespace loci {

class RandomSequence {
 public:
  explicit RandomSequence(CounterRandom random, uint64_t position = 0) : random_(random), position_(position) {}

  uint64_t bits() { return random_.bits(position_++); }
  double uniform() { return random_.uniform(position_++); }                              // in [0, 1)
  uint64_t below(uint64_t bound) { return random_.below(position_++, bound); }           // in 0 .. bound-1
  uint64_t between(uint64_t low, uint64_t high) { return low + below(high - low + 1); }  // in low .. high

  template <class T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }

  uint64_t position() const { return position_; }

 private:
  CounterRandom random_;
  uint64_t position_;
};

}  // namespace loci
