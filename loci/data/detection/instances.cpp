#include "loci/data/detection/instances.h"

#include <bit>

namespace loci {

void PixelMask::remove(const PixelMask& other) {
  for (size_t i = 0; i < bits_.size(); ++i) bits_[i] &= ~other.bits_[i];
}

int64_t PixelMask::count() const {
  return count_shared(*this);
}

int64_t PixelMask::count_shared(const PixelMask& other) const {
  int64_t sum = 0;
  for (size_t i = 0; i < bits_.size(); ++i) sum += std::popcount(bits_[i] & other.bits_[i]);
  return sum;
}

}  // namespace loci
