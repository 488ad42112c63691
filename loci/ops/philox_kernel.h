// Philox 4x32-10 (base/random.h), 64 blocks at a time. For kernel files alone.
#pragma once

#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace loci::LOCI_LEVEL {
namespace {

constexpr int kPhiloxBlocks = 64;

// words[i][b] = word i of the block of the counter {low[b], high[b], stream} under the key `seed`: that of
// CounterRandom(seed, stream) at the position high[b] << 32 | low[b].
struct PhiloxBlocks {
  alignas(64) uint32_t low[kPhiloxBlocks];
  alignas(64) uint32_t high[kPhiloxBlocks];
  alignas(64) uint32_t words[4][kPhiloxBlocks];
  void fill(uint64_t seed, uint64_t stream);
};

#if defined(__AVX512F__)
struct PhiloxLanes {
  using Word = __m512i;
  static constexpr int kCount = 16;
  static Word load(const uint32_t* from) { return _mm512_load_si512(from); }
  static void store(uint32_t* to, Word x) { _mm512_store_si512(to, x); }
  static Word all(uint32_t x) { return _mm512_set1_epi32(static_cast<int32_t>(x)); }
  static Word add(Word a, Word b) { return _mm512_add_epi32(a, b); }
  static Word mix(Word a, Word b, Word c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  // Masked forms: GCC warns of the plain ones, which begin with an undefined register.
  static void multiply(Word x, Word factor, Word* low, Word* high) {
    const Word even = _mm512_maskz_mul_epu32(0xff, x, factor), above = _mm512_maskz_srli_epi64(0xff, x, 32);
    const Word odd = _mm512_maskz_mul_epu32(0xff, above, factor);
    *low = _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_maskz_slli_epi64(0xff, odd, 32));
    *high = _mm512_mask_mov_epi32(_mm512_maskz_srli_epi64(0xff, even, 32), 0xaaaa, odd);
  }
};
#elif defined(__AVX2__)
struct PhiloxLanes {
  using Word = __m256i;
  static constexpr int kCount = 8;
  static Word load(const uint32_t* from) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(from)); }
  static void store(uint32_t* to, Word x) { _mm256_store_si256(reinterpret_cast<__m256i*>(to), x); }
  static Word all(uint32_t x) { return _mm256_set1_epi32(static_cast<int32_t>(x)); }
  static Word add(Word a, Word b) { return _mm256_add_epi32(a, b); }
  static Word mix(Word a, Word b, Word c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
  static void multiply(Word x, Word factor, Word* low, Word* high) {
    const Word even = _mm256_mul_epu32(x, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  }
};
#else
struct PhiloxLanes {
  using Word = uint32_t;
  static constexpr int kCount = 1;
  static Word load(const uint32_t* from) { return *from; }
  static void store(uint32_t* to, Word x) { *to = x; }
  static Word all(uint32_t x) { return x; }
  static Word add(Word a, Word b) { return a + b; }
  static Word mix(Word a, Word b, Word c) { return a ^ b ^ c; }
  static void multiply(Word x, Word factor, Word* low, Word* high) {
    const uint64_t product = uint64_t{x} * factor;
    *low = static_cast<uint32_t>(product);
    *high = static_cast<uint32_t>(product >> 32);
  }
};
#endif

inline void PhiloxBlocks::fill(uint64_t seed, uint64_t stream) {
  using Lanes = PhiloxLanes;
  const auto factor0 = Lanes::all(0xD2511F53), factor1 = Lanes::all(0xCD9E8D57);
  const auto add0 = Lanes::all(0x9E3779B9), add1 = Lanes::all(0xBB67AE85);
  for (int b = 0; b < kPhiloxBlocks; b += Lanes::kCount) {
    Lanes::Word c0 = Lanes::load(low + b), c1 = Lanes::load(high + b);
    Lanes::Word c2 = Lanes::all(static_cast<uint32_t>(stream)), c3 = Lanes::all(static_cast<uint32_t>(stream >> 32));
    Lanes::Word key0 = Lanes::all(static_cast<uint32_t>(seed)), key1 = Lanes::all(static_cast<uint32_t>(seed >> 32));
    for (int round = 0; round < 10; ++round) {
      Lanes::Word low_a, high_a, low_b, high_b;
      Lanes::multiply(c0, factor0, &low_a, &high_a);
      Lanes::multiply(c2, factor1, &low_b, &high_b);
      c0 = Lanes::mix(high_b, c1, key0);
      c1 = low_b;
      c2 = Lanes::mix(high_a, c3, key1);
      c3 = low_a;
      key0 = Lanes::add(key0, add0);
      key1 = Lanes::add(key1, add1);
    }
    Lanes::store(words[0] + b, c0);
    Lanes::store(words[1] + b, c1);
    Lanes::store(words[2] + b, c2);
    Lanes::store(words[3] + b, c3);
  }
}

}  // namespace
}  // namespace loci::LOCI_LEVEL
