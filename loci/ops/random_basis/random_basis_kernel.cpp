#include "loci/ops/random_basis/random_basis_kernel.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace loci::LOCI_LEVEL {
namespace {

constexpr int kRounds = 10, kWords = 4, kBytes = 4, kCounters = 16;

// Vectors of kWide counters, one 32-bit word of each. Products and sums stay apart: all levels round alike.
#if defined(__AVX512F__)
constexpr int kWide = 16;
using Words = __m512i;
using Floats = __m512;
constexpr __mmask16 kAll = 0xffff;  // g++ 12 reports forms without a mask as uninitialised

Words all(uint32_t x) {
  return _mm512_set1_epi32(static_cast<int32_t>(x));
}
Words counting(uint32_t from) {
  return _mm512_add_epi32(all(from), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
Words xor_of(Words a, Words b, Words c) {
  return _mm512_ternarylogic_epi32(a, b, c, 0x96);
}
// The low and high halves of x * factor.
void multiply(Words x, Words factor, Words& low, Words& high) {
  const Words even = _mm512_maskz_mul_epu32(0xff, x, factor),
              odd = _mm512_maskz_mul_epu32(0xff, _mm512_maskz_srli_epi64(0xff, x, 32), factor);
  low = _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, static_cast<_MM_PERM_ENUM>(0xa0));
  high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, static_cast<_MM_PERM_ENUM>(0xf5));
}
Words table_of(const int8_t* values) {
  return _mm512_maskz_broadcast_i32x4(kAll, _mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
}
// low[byte % 16] + high[byte / 16] of each byte.
Words values_of(Words bytes, Words low, Words high) {
  const Words nibble = _mm512_set1_epi8(15);
  return _mm512_add_epi8(_mm512_shuffle_epi8(low, _mm512_and_si512(bytes, nibble)),
                         _mm512_shuffle_epi8(high, _mm512_and_si512(_mm512_maskz_srli_epi32(kAll, bytes, 4), nibble)));
}
template <int kByte>
Floats number(Words values) {
  return _mm512_maskz_cvtepi32_ps(
      kAll, _mm512_maskz_srai_epi32(kAll, _mm512_maskz_slli_epi32(kAll, values, 24 - 8 * kByte), 24));
}
Floats zeros() {
  return _mm512_setzero_ps();
}
Floats same(float x) {
  return _mm512_set1_ps(x);
}
Floats load(const float* from) {
  return _mm512_loadu_ps(from);
}
void store(float* to, Floats x) {
  _mm512_storeu_ps(to, x);
}
Floats plus_product(Floats sum, Floats a, Floats b) {
  return _mm512_add_ps(sum, _mm512_mul_ps(a, b));
}
#elif defined(__AVX2__)
constexpr int kWide = 8;
using Words = __m256i;
using Floats = __m256;

Words all(uint32_t x) {
  return _mm256_set1_epi32(static_cast<int32_t>(x));
}
Words counting(uint32_t from) {
  return _mm256_add_epi32(all(from), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
Words xor_of(Words a, Words b, Words c) {
  return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
}
void multiply(Words x, Words factor, Words& low, Words& high) {
  const Words even = _mm256_mul_epu32(x, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}
Words table_of(const int8_t* values) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
}
Words values_of(Words bytes, Words low, Words high) {
  const Words nibble = _mm256_set1_epi8(15);
  return _mm256_add_epi8(_mm256_shuffle_epi8(low, _mm256_and_si256(bytes, nibble)),
                         _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi32(bytes, 4), nibble)));
}
template <int kByte>
Floats number(Words values) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(values, 24 - 8 * kByte), 24));
}
Floats zeros() {
  return _mm256_setzero_ps();
}
Floats same(float x) {
  return _mm256_set1_ps(x);
}
Floats load(const float* from) {
  return _mm256_loadu_ps(from);
}
void store(float* to, Floats x) {
  _mm256_storeu_ps(to, x);
}
Floats plus_product(Floats sum, Floats a, Floats b) {
  return _mm256_add_ps(sum, _mm256_mul_ps(a, b));
}
#else
constexpr int kWide = 16;
struct Words {
  uint32_t of[kWide];
};
struct Floats {
  float of[kWide];
};
template <class Vector, class Of>
Vector made(const Of& of) {
  Vector x;
  for (int lane = 0; lane < kWide; ++lane) x.of[lane] = of(lane);
  return x;
}

Words all(uint32_t x) {
  return made<Words>([&](int) { return x; });
}
Words counting(uint32_t from) {
  return made<Words>([&](int lane) { return from + static_cast<uint32_t>(lane); });
}
Words xor_of(const Words& a, const Words& b, const Words& c) {
  return made<Words>([&](int lane) { return a.of[lane] ^ b.of[lane] ^ c.of[lane]; });
}
void multiply(const Words& x, const Words& factor, Words& low, Words& high) {
  for (int lane = 0; lane < kWide; ++lane) {
    const uint64_t product = uint64_t{x.of[lane]} * factor.of[lane];
    low.of[lane] = static_cast<uint32_t>(product);
    high.of[lane] = static_cast<uint32_t>(product >> 32);
  }
}
const int8_t* table_of(const int8_t* values) {
  return values;
}
Words values_of(const Words& words, const int8_t* low, const int8_t* high) {
  return made<Words>([&](int lane) {
    uint32_t values = 0;
    for (int byte = 0; byte < kBytes; ++byte) {
      const uint32_t bits = words.of[lane] >> 8 * byte;
      values |= (static_cast<uint32_t>(low[bits & 15] + high[bits >> 4 & 15]) & 255) << 8 * byte;
    }
    return values;
  });
}
template <int kByte>
Floats number(const Words& values) {
  return made<Floats>(
      [&](int lane) { return static_cast<float>(static_cast<int8_t>(values.of[lane] >> 8 * kByte & 255)); });
}
Floats zeros() {
  return Floats{};
}
Floats same(float x) {
  return made<Floats>([&](int) { return x; });
}
Floats load(const float* from) {
  return made<Floats>([&](int lane) { return from[lane]; });
}
void store(float* to, const Floats& x) {
  for (int lane = 0; lane < kWide; ++lane) to[lane] = x.of[lane];
}
Floats plus_product(const Floats& sum, const Floats& a, const Floats& b) {
  return made<Floats>([&](int lane) { return sum.of[lane] + a.of[lane] * b.of[lane]; });
}
#endif

// Philox 4x32-10 of base/random.h for kWide counters.
struct Philox {
  Words key0[kRounds], key1[kRounds], factor0, factor1, compartment, step;

  explicit Philox(const RandomBasisStream& stream)
      : factor0(all(0xD2511F53)),
        factor1(all(0xCD9E8D57)),
        compartment(all(stream.compartment)),
        step(all(stream.step)) {
    for (uint32_t round = 0; round < kRounds; ++round) {
      key0[round] = all(stream.key0 + round * 0x9E3779B9);
      key1[round] = all(stream.key1 + round * 0xBB67AE85);
    }
  }
  void operator()(uint32_t counter, uint32_t direction, Words (&word)[kWords]) const {
    Words c0 = counting(counter), c1 = all(direction), c2 = compartment, c3 = step;
#pragma GCC unroll 10
    for (int round = 0; round < kRounds; ++round) {
      Words low0, high0, low1, high1;
      multiply(c0, factor0, low0, high0);
      multiply(c2, factor1, low1, high1);
      c0 = xor_of(high1, c1, key0[round]);
      c1 = low1;
      c2 = xor_of(high0, c3, key1[round]);
      c3 = low0;
    }
    word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
  }
};

void dot(const RandomBasisStream& stream, uint32_t direction, uint32_t first, int64_t groups, const float* gradient,
         float* sums) {
  const Philox philox(stream);
  const auto low = table_of(stream.low), high = table_of(stream.high);
  for (int half = 0; half < kCounters; half += kWide) {
    Floats sum[kBytes];
    for (int byte = 0; byte < kBytes; ++byte) sum[byte] = load(sums + byte * kCounters + half);
    for (int64_t g = 0; g < groups; ++g) {
      Words word[kWords];
      philox((first + static_cast<uint32_t>(g)) * kCounters + static_cast<uint32_t>(half), direction, word);
      const float* from = gradient + g * RandomBasisKernel::kGroup + half;
#pragma GCC unroll 4
      for (int w = 0; w < kWords; ++w, from += RandomBasisKernel::kLanes) {
        const Words values = values_of(word[w], low, high);
        sum[0] = plus_product(sum[0], load(from), number<0>(values));
        sum[1] = plus_product(sum[1], load(from + kCounters), number<1>(values));
        sum[2] = plus_product(sum[2], load(from + 2 * kCounters), number<2>(values));
        sum[3] = plus_product(sum[3], load(from + 3 * kCounters), number<3>(values));
      }
    }
    for (int byte = 0; byte < kBytes; ++byte) store(sums + byte * kCounters + half, sum[byte]);
  }
}

void add(const RandomBasisStream& stream, uint32_t first, int64_t directions, const float* coefficients, uint32_t group,
         float* total) {
  const Philox philox(stream);
  const auto low = table_of(stream.low), high = table_of(stream.high);
  for (int half = 0; half < kCounters; half += kWide) {
    Floats sum[kWords][kBytes];
    for (auto& of_word : sum) {
      for (Floats& one : of_word) one = zeros();
    }
    for (int64_t i = 0; i < directions; ++i) {
      Words word[kWords];
      philox(group * kCounters + static_cast<uint32_t>(half), first + static_cast<uint32_t>(i), word);
      const Floats c = same(coefficients[i]);
#pragma GCC unroll 4
      for (int w = 0; w < kWords; ++w) {
        const Words values = values_of(word[w], low, high);
        sum[w][0] = plus_product(sum[w][0], c, number<0>(values));
        sum[w][1] = plus_product(sum[w][1], c, number<1>(values));
        sum[w][2] = plus_product(sum[w][2], c, number<2>(values));
        sum[w][3] = plus_product(sum[w][3], c, number<3>(values));
      }
    }
    for (int w = 0; w < kWords; ++w) {
      for (int byte = 0; byte < kBytes; ++byte) {
        store(total + w * RandomBasisKernel::kLanes + byte * kCounters + half, sum[w][byte]);
      }
    }
  }
}

}  // namespace

const RandomBasisKernel random_basis_kernel = {dot, add};

}  // namespace loci::LOCI_LEVEL
