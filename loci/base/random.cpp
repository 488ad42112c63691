#include "loci/base/random.h"

#include <xxhash.h>

#include <cmath>
#include <numbers>
#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

__extension__ typedef unsigned __int128 uint128;

constexpr int kFeistelRounds = 8;

uint64_t join(uint32_t low, uint32_t high) {
  return static_cast<uint64_t>(high) << 32 | low;
}
uint32_t low_half(uint64_t value) {
  return static_cast<uint32_t>(value);
}
uint32_t high_half(uint64_t value) {
  return static_cast<uint32_t>(value >> 32);
}

std::array<uint32_t, 4> block(uint64_t seed, uint64_t stream, uint64_t position) {
  return philox({low_half(position), high_half(position), low_half(stream), high_half(stream)},
                {low_half(seed), high_half(seed)});
}

double unit(uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {high_half(b) ^ counter[1] ^ key[0], low_half(b), high_half(a) ^ counter[3] ^ key[1], low_half(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

uint64_t stream_of(std::string_view name) {
  return XXH3_64bits(name.data(), name.size());
}

uint64_t CounterRandom::bits(uint64_t position) const {
  const auto words = block(seed_, stream_, position);
  return join(words[0], words[1]);
}

double CounterRandom::uniform(uint64_t position) const {
  return unit(bits(position));
}

double CounterRandom::normal(uint64_t position) const {
  const auto words = block(seed_, stream_, position);
  const double radius = std::sqrt(-2 * std::log(1 - unit(join(words[0], words[1]))));
  return radius * std::cos(2 * std::numbers::pi * unit(join(words[2], words[3])));
}

uint64_t CounterRandom::below(uint64_t position, uint64_t bound) const {
  if (bound == 0) fail(ExitCode::bug, "CounterRandom", "bound must be at least 1", "0");
  return static_cast<uint64_t>(uint128{bits(position)} * bound >> 64);
}

CounterPermutation::CounterPermutation(uint64_t size, uint64_t seed, uint64_t stream)
    : size_(size), seed_(seed), stream_(stream), half_bits_(1) {
  if (size == 0) fail(ExitCode::bug, "CounterPermutation", "size must be at least 1", "0");
  while (half_bits_ < 32 && (uint64_t{1} << (2 * half_bits_)) < size) ++half_bits_;
}

uint64_t CounterPermutation::operator()(uint64_t position) const {
  if (position >= size_) {
    fail(ExitCode::bug, "CounterPermutation", fmt::format("position must be below {}", size_),
         fmt::to_string(position));
  }
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t value = position;
  do {  // the network permutes at most 4 * size values: walk its cycle until the value is in range again
    uint64_t left = value >> half_bits_;
    uint64_t right = value & mask;
    for (uint64_t round = 0; round < kFeistelRounds; ++round) {
      const uint64_t mixed = block(seed_, stream_, round << 32 | right)[0] & mask;
      left = std::exchange(right, left ^ mixed);
    }
    value = left << half_bits_ | right;
  } while (value >= size_);
  return value;
}

}  // namespace loci
