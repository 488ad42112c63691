// Counter-based random numbers: a value depends on (seed, stream, position) alone, so that any thread count, shard or
// order of calls gives the same numbers. Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
// 3"), whose published test vectors are in random_test.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace loci {

// Philox 4x32 with ten rounds.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// A stream's number from its name ("model.layers.0.attention.weight"): XXH3-64 of the name.
uint64_t stream_of(std::string_view name);

class CounterRandom {
 public:
  CounterRandom(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}
  CounterRandom(uint64_t seed, std::string_view stream) : CounterRandom(seed, stream_of(stream)) {}

  // 64 random bits for a position.
  uint64_t bits(uint64_t position) const;
  // Uniform in [0, 1), 53 bits.
  double uniform(uint64_t position) const;
  // Standard normal by Box and Muller, in double.
  double normal(uint64_t position) const;
  // Uniform in 0 .. bound-1, without bias beyond 2^-64 * bound. bound >= 1.
  uint64_t below(uint64_t position, uint64_t bound) const;

 private:
  uint64_t seed_;
  uint64_t stream_;
};

// A permutation of 0 .. size-1 that needs no memory: a Feistel network with cycle walking, keyed by (seed, stream).
class CounterPermutation {
 public:
  CounterPermutation(uint64_t size, uint64_t seed, uint64_t stream);
  uint64_t operator()(uint64_t position) const;  // position < size

 private:
  uint64_t size_;
  uint64_t seed_;
  uint64_t stream_;
  int half_bits_;
};

}  // namespace loci
