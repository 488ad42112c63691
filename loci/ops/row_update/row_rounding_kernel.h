// bfloat16 rows and how they are rounded, for kernel files alone.
//
// AVX512_BF16 is not used: it rounds to nearest only and takes subnormal numbers for zero, so that rows would differ
// from those of other CPUs. Nothing is lost, since memory is the bound.
#pragma once

#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace loci::LOCI_LEVEL {
namespace {

uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

float widened(uint16_t stored) {
  return float_of(static_cast<uint32_t>(stored) << 16);
}

// condition ? yes : no without a branch, for the compiler does not vectorise a loop that has one.
uint32_t choose(bool condition, uint32_t yes, uint32_t no) {
  const uint32_t mask = 0 - static_cast<uint32_t>(condition);
  return (yes & mask) | (no & ~mask);
}

// Rounds to nearest, ties to even. Any NaN becomes 0x7fc0.
uint32_t narrowed_bits(uint32_t bits) {
  return choose((bits & 0x7fffffff) > 0x7f800000, 0x7fc0, (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t narrowed(float x) {
  return static_cast<uint16_t>(narrowed_bits(bits_of(x)));
}

void read_bfloat16(int64_t width, const uint16_t* __restrict row, float* __restrict value) {
  for (int64_t d = 0; d < width; ++d) value[d] = widened(row[d]);
}

void read_master(int64_t width, const uint16_t* __restrict row, const float* __restrict master,
                 float* __restrict value) {
  for (int64_t d = 0; d < width; ++d) {
    const float stored = widened(row[d]);
    value[d] = widened(narrowed(master[d])) == stored ? master[d] : stored;
  }
}

void write_nearest(int64_t width, const float* __restrict value, uint16_t* __restrict row) {
  for (int64_t d = 0; d < width; ++d) row[d] = narrowed(value[d]);
}

// Random bits are added to the 16 bits that are cut off: the probability of a carry, which rounds the magnitude up, is
// their share of a unit of the last place that stays.
void write_stochastic(int64_t width, const float* __restrict value, const uint16_t* __restrict bits,
                      uint16_t* __restrict row) {
  for (int64_t d = 0; d < width; ++d) {
    const uint32_t x = bits_of(value[d]);
    row[d] = static_cast<uint16_t>(choose((x & 0x7f800000) == 0x7f800000, narrowed_bits(x), (x + bits[d]) >> 16));
  }
}

// The bits of rounding_bits (row_update_definition.h), from eight blocks of Philox 4x32-10 (base/random.h) at a time:
// 64 columns. The first is column 8 * block of the table; `bits` has room for the width rounded up to 64.
#if defined(__AVX2__)
struct Product {
  __m256i low, high;
};

Product multiply(__m256i x, __m256i factor) {
  const __m256i even = _mm256_mul_epu32(x, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
  return {_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa),
          _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa)};
}

void rounding_bits(uint64_t seed, int64_t step, int64_t row, int64_t block, int64_t width, uint16_t* __restrict bits) {
  const auto all = [](uint64_t x) { return _mm256_set1_epi32(static_cast<int32_t>(static_cast<uint32_t>(x))); };
  const __m256i factor0 = all(0xD2511F53), factor1 = all(0xCD9E8D57);
  for (int64_t column = 0; column < width; column += 64) {
    __m256i c0 = all(static_cast<uint64_t>(row)), c1 = all(static_cast<uint64_t>(row) >> 32);
    __m256i c2 =
        _mm256_add_epi32(all(static_cast<uint64_t>(block + column / 8)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i c3 = all(static_cast<uint64_t>(step));
    __m256i key0 = all(seed), key1 = all(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const Product a = multiply(c0, factor0), b = multiply(c2, factor1);
      c0 = _mm256_xor_si256(_mm256_xor_si256(b.high, c1), key0);
      c1 = b.low;
      c2 = _mm256_xor_si256(_mm256_xor_si256(a.high, c3), key1);
      c3 = a.low;
      key0 = _mm256_add_epi32(key0, all(0x9E3779B9));
      key1 = _mm256_add_epi32(key1, all(0xBB67AE85));
    }
    // Transposes: the four words of a block become neighbours.
    const __m256i low01 = _mm256_unpacklo_epi32(c0, c1), low23 = _mm256_unpacklo_epi32(c2, c3);
    const __m256i high01 = _mm256_unpackhi_epi32(c0, c1), high23 = _mm256_unpackhi_epi32(c2, c3);
    const __m256i block04 = _mm256_unpacklo_epi64(low01, low23), block15 = _mm256_unpackhi_epi64(low01, low23);
    const __m256i block26 = _mm256_unpacklo_epi64(high01, high23), block37 = _mm256_unpackhi_epi64(high01, high23);
    __m256i* out = reinterpret_cast<__m256i*>(bits + column);
    _mm256_storeu_si256(out, _mm256_permute2x128_si256(block04, block15, 0x20));
    _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(block26, block37, 0x20));
    _mm256_storeu_si256(out + 2, _mm256_permute2x128_si256(block04, block15, 0x31));
    _mm256_storeu_si256(out + 3, _mm256_permute2x128_si256(block26, block37, 0x31));
  }
}
#else
void rounding_bits(uint64_t seed, int64_t step, int64_t row, int64_t block, int64_t width, uint16_t* __restrict bits) {
  for (int64_t column = 0; column < width; column += 64) {
    uint32_t counter[4][8];
    for (int lane = 0; lane < 8; ++lane) {
      counter[0][lane] = static_cast<uint32_t>(row);
      counter[1][lane] = static_cast<uint32_t>(row >> 32);
      counter[2][lane] = static_cast<uint32_t>(block + column / 8 + lane);
      counter[3][lane] = static_cast<uint32_t>(step);
    }
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int lane = 0; lane < 8; ++lane) {
        const uint64_t product0 = uint64_t{0xD2511F53} * counter[0][lane];
        const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2][lane];
        counter[0][lane] = static_cast<uint32_t>(product1 >> 32) ^ counter[1][lane] ^ key0;
        counter[1][lane] = static_cast<uint32_t>(product1);
        counter[2][lane] = static_cast<uint32_t>(product0 >> 32) ^ counter[3][lane] ^ key1;
        counter[3][lane] = static_cast<uint32_t>(product0);
      }
      key0 += 0x9E3779B9;
      key1 += 0xBB67AE85;
    }
    for (int lane = 0; lane < 8; ++lane) {
      for (int word = 0; word < 4; ++word) {
        bits[column + 8 * lane + 2 * word] = static_cast<uint16_t>(counter[word][lane]);
        bits[column + 8 * lane + 2 * word + 1] = static_cast<uint16_t>(counter[word][lane] >> 16);
      }
    }
  }
}
#endif

}  // namespace
}  // namespace loci::LOCI_LEVEL
