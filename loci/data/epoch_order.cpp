#include "loci/data/epoch_order.h"

#include "loci/base/check.h"
#include "loci/base/random.h"

namespace loci {

EpochOrder::EpochOrder(int64_t items, uint64_t seed) : items_(items), seed_(seed) {
  if (items < 1) fail(ExitCode::usage, "EpochOrder", "items must be at least 1", fmt::to_string(items));
}

EpochOrder::Visit EpochOrder::at(int64_t position) const {
  if (position < 0) fail(ExitCode::bug, "EpochOrder", "position must be at least 0", fmt::to_string(position));
  const int64_t epoch = position / items_;
  // The stream is called after windows of text, which were ordered first: another name would give other numbers.
  const uint64_t order = CounterRandom(seed_, "window order").bits(static_cast<uint64_t>(epoch));
  const CounterPermutation permutation(static_cast<uint64_t>(items_), seed_, order);
  return {epoch, static_cast<int64_t>(permutation(static_cast<uint64_t>(position % items_)))};
}

}  // namespace loci
