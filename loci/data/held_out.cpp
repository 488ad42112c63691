#include "loci/data/held_out.h"

#include <xxhash.h>

#include <algorithm>
#include <array>

#include "loci/base/check.h"

namespace loci {

std::vector<bool> held_out(const std::vector<std::string>& names, double share, int64_t seed) {
  if (names.size() < 2) fail(ExitCode::bug, "held_out", "there must be two names", fmt::to_string(names.size()));
  std::vector<std::array<uint64_t, 2>> hashes;
  for (const std::string& name : names) {
    const auto hash = XXH3_128bits_withSeed(name.data(), name.size(), static_cast<uint64_t>(seed));
    hashes.push_back({hash.high64, hash.low64});
  }
  const auto [first, last] = std::minmax_element(hashes.begin(), hashes.end());
  std::vector<bool> held;
  for (auto hash = hashes.begin(); hash != hashes.end(); ++hash) {
    const bool below = static_cast<double>((*hash)[0]) * 0x1p-64 < share;
    held.push_back(hash == first || (below && hash != last));
  }
  return held;
}

}  // namespace loci
