#include "loci/ops/binary_linear/binary_linear_kernel.h"

#include "loci/ops/vector_kernel.h"

// Legend: T vectors a, O vectors b, K signs (inputs) of each.

namespace loci::LOCI_LEVEL {
namespace {

typedef uint64_t Words __attribute__((vector_size(kVectorBytes)));
typedef uint8_t Bytes __attribute__((vector_size(kVectorBytes)));
typedef int32_t Results __attribute__((vector_size(kVectorBytes)));

constexpr int kWords = kVectorBytes / 8;
constexpr int kProducts = kVectorBytes / 4;  // made at once: their counts fill one vector
constexpr int64_t kBits = 64;
constexpr int64_t kMostBytes = 31;  // counts of up to 8 that a byte can sum

Words load(const uint64_t* from) {
  Words vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

// The first `count` words, followed by zeros.
Words load_some(const uint64_t* from, int64_t count) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_loadu_epi64(static_cast<__mmask8>((1 << count) - 1), from);
#elif defined(__AVX2__)
  const __m256i wanted = _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
  return (Words)_mm256_maskload_epi64(reinterpret_cast<const long long*>(from), wanted);
#else
  Words vector = {};
  for (int64_t i = 0; i < count; ++i) vector[i] = from[i];
  return vector;
#endif
}

#if defined(__AVX2__)
// Bits of the numbers 0 to 15, in every 16 bytes. Loaded whole: filled by a loop, it was made again for each look-up.
alignas(64) constexpr uint8_t kCounts[64] = {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2,
                                             2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3,
                                             2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4};

// table[index], of the same 16 bytes.
Bytes looked_up(Bytes table, Words index) {
#if defined(__AVX512F__)
  return (Bytes)_mm512_maskz_shuffle_epi8(~__mmask64{0}, (__m512i)table, (__m512i)index);
#else
  return (Bytes)_mm256_shuffle_epi8((__m256i)table, (__m256i)index);
#endif
}
#endif

// How many bits of each byte are 1.
Bytes counts_of(Words x) {
#if defined(__AVX2__)
  constexpr uint64_t low = 0x0f0f0f0f0f0f0f0fu;
  Bytes table;
  __builtin_memcpy(&table, kCounts, sizeof table);
  return looked_up(table, x & low) + looked_up(table, (x >> 4) & low);
#else
  x -= (x >> 1) & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
  return (Bytes)((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu);
#endif
}

// The sum of the bytes of each word.
Words sums_of(Bytes x) {
#if defined(__AVX512F__)
  return (Words)_mm512_sad_epu8((__m512i)x, _mm512_setzero_si512());
#elif defined(__AVX2__)
  return (Words)_mm256_sad_epu8((__m256i)x, _mm256_setzero_si256());
#else
  Words pairs = ((Words)x & 0x00ff00ff00ff00ffu) + (((Words)x >> 8) & 0x00ff00ff00ff00ffu);
  pairs += pairs >> 32;
  return (pairs + (pairs >> 16)) & 0xffffu;
#endif
}

// How many bits of each word are 1, by the instruction. As assembler, so that the compiler uses it nowhere else.
#if defined(__AVX512F__)
Words popcount(Words x) {
  Words count;
  asm("vpopcntq %1, %0" : "=v"(count) : "v"(x));
  return count;
}
#endif

// In each 128 bits: the sum of a's two words, and that of b's.
Words add_words(Words a, Words b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
         __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
#elif defined(__AVX2__)
  return __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
#else
  return __builtin_shufflevector(a, b, 0, 2) + __builtin_shufflevector(a, b, 1, 3);
#endif
}

// Sums of a's neighbouring lanes of 128 bits, then those of b's.
#if defined(__AVX512F__)
Words add_lanes(Words a, Words b) {
  return __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13) +
         __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15);
}
#elif defined(__AVX2__)
Words add_lanes(Words a, Words b) {
  return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
}
#endif

// The sums of kProducts vectors in their order. Each is below 2^32, so that two share a word.
Results totals_of(const Words (&count)[kProducts]) {
  Words part[kProducts / 4];
  for (int i = 0; i < kProducts / 4; ++i) {
    const Words* const c = count + 4 * i;
    part[i] = add_words(c[0] + (c[1] << 32), c[2] + (c[3] << 32));
  }
#if defined(__AVX512F__)
  return (Results)add_lanes(add_lanes(part[0], part[1]), add_lanes(part[2], part[3]));
#elif defined(__AVX2__)
  return (Results)add_lanes(part[0], part[1]);
#else
  return (Results)part[0];
#endif
}

// Adds counts of whole vectors and of the rest, by bytes that are emptied before they are full.
// Of 64 x 64 products of 64 words AVX2 takes 0.42 cycles a word on a core of an AMD EPYC (Zen 4, counter at 2.6 GHz);
// carry-save adders over 8 vectors, which look up an eighth as often, took 0.44.
struct ByBytes {
  template <class Load>
  static void add(Words (&count)[kProducts], int64_t vectors, const Load& load_pair) {
    for (int64_t first = 0; first < vectors; first += kMostBytes) {
      const int64_t last = vectors - first < kMostBytes ? vectors : first + kMostBytes;
      Bytes sum[kProducts] = {};
      for (int64_t v = first; v < last; ++v) load_pair(v, [&](int i, Words x) { sum[i] += counts_of(x); });
      for (int i = 0; i < kProducts; ++i) count[i] += sums_of(sum[i]);
    }
  }
};

#if defined(__AVX512F__)
struct ByPopcount {
  template <class Load>
  static void add(Words (&count)[kProducts], int64_t vectors, const Load& load_pair) {
    for (int64_t v = 0; v < vectors; ++v) load_pair(v, [&](int i, Words x) { count[i] += popcount(x); });
  }
};
#endif

// kT vectors a with kProducts / kT vectors b, at `b`; the last of them stands in where there are fewer.
template <class Way, int kT>
void tile(const uint64_t* a, const uint64_t* b, int64_t rows, int64_t words, int64_t inputs, int32_t* y,
          int64_t y_stride) {
  constexpr int kRows = kProducts / kT;
  const uint64_t* row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = b + (r < rows ? r : rows - 1) * words;
  Words count[kProducts] = {};
  Way::add(count, words / kWords, [&](int64_t v, const auto& take) __attribute__((always_inline)) {
    Words vector[kT];
#pragma GCC unroll 4
    for (int t = 0; t < kT; ++t) vector[t] = load(a + t * words + v * kWords);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Words other = load(row[r] + v * kWords);
#pragma GCC unroll 4
      for (int t = 0; t < kT; ++t) take(t * kRows + r, vector[t] ^ other);
    }
  });
  if (const int64_t rest = words % kWords; rest > 0) {
    const int64_t at = words - rest;
    Way::add(count, 1, [&](int64_t, const auto& take) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Words other = load_some(row[r] + at, rest);
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) take(t * kRows + r, load_some(a + t * words + at, rest) ^ other);
      }
    });
  }
  const Results result = static_cast<int32_t>(inputs) - 2 * totals_of(count);
  for (int t = 0; t < kT; ++t) {
    for (int r = 0; r < kRows && r < rows; ++r) y[t * y_stride + r] = result[t * kRows + r];
  }
}

template <class Way, int kT>
void tiles(const uint64_t* a, const uint64_t* b, int64_t O, int64_t words, int64_t inputs, int32_t* y,
           int64_t y_stride) {
  constexpr int kRows = kProducts / kT;
  for (int64_t o = 0; o < O; o += kRows) {
    tile<Way, kT>(a, b + o * words, O - o, words, inputs, y + o, y_stride);
  }
}

template <class Way>
void products(const uint64_t* a, int64_t T, const uint64_t* b, int64_t O, int64_t words, int64_t inputs, int32_t* y,
              int64_t y_stride) {
  int64_t t = 0;
#if defined(__AVX512F__)
  for (; t + 4 <= T; t += 4) tiles<Way, 4>(a + t * words, b, O, words, inputs, y + t * y_stride, y_stride);
#endif
  for (; t + 2 <= T; t += 2) tiles<Way, 2>(a + t * words, b, O, words, inputs, y + t * y_stride, y_stride);
  if (t < T) tiles<Way, 1>(a + t * words, b, O, words, inputs, y + t * y_stride, y_stride);
}

// Bits of 64 comparisons at most: of x >= 0 that does not hold, and of y < threshold.
uint64_t negative_signs(const float* x, int64_t count) {
  uint64_t bits = 0;
  int64_t k = 0;
#if defined(__AVX512F__)
  for (; k + 16 <= count; k += 16) {
    bits |= static_cast<uint64_t>(_mm512_cmp_ps_mask(_mm512_loadu_ps(x + k), _mm512_setzero_ps(), _CMP_NGE_UQ)) << k;
  }
#elif defined(__AVX2__)
  for (; k + 8 <= count; k += 8) {
    const __m256 below = _mm256_cmp_ps(_mm256_loadu_ps(x + k), _mm256_setzero_ps(), _CMP_NGE_UQ);
    bits |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(below))) << k;
  }
#endif
  for (; k < count; ++k) bits |= static_cast<uint64_t>(!(x[k] >= 0)) << k;
  return bits;
}

uint64_t below(const int32_t* y, const int32_t* threshold, int64_t count) {
  uint64_t bits = 0;
  int64_t o = 0;
#if defined(__AVX512F__)
  for (; o + 16 <= count; o += 16) {
    const __mmask16 less = _mm512_cmplt_epi32_mask(_mm512_loadu_si512(y + o), _mm512_loadu_si512(threshold + o));
    bits |= static_cast<uint64_t>(less) << o;
  }
#elif defined(__AVX2__)
  const auto eight = [](const int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); };
  for (; o + 8 <= count; o += 8) {
    const __m256 less = _mm256_castsi256_ps(_mm256_cmpgt_epi32(eight(threshold + o), eight(y + o)));
    bits |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(less))) << o;
  }
#endif
  for (; o < count; ++o) bits |= static_cast<uint64_t>(y[o] < threshold[o]) << o;
  return bits;
}

void pack(const float* x, int64_t inputs, uint64_t* bits) {
  for (int64_t k = 0; k < inputs; k += kBits) {
    bits[k / kBits] = negative_signs(x + k, inputs - k < kBits ? inputs - k : kBits);
  }
}

void threshold(const int32_t* y, int64_t O, const int32_t* least, const uint64_t* turned, uint64_t* bits) {
  for (int64_t o = 0; o < O; o += kBits) {
    const int64_t count = O - o < kBits ? O - o : kBits;
    const uint64_t all = count < kBits ? (uint64_t{1} << count) - 1 : ~uint64_t{0};
    bits[o / kBits] = (below(y + o, least + o, count) ^ turned[o / kBits]) & all;
  }
}

#if defined(__AVX512F__)
constexpr BinaryLinearKernel::Products kByPopcount = products<ByPopcount>;
#else
constexpr BinaryLinearKernel::Products kByPopcount = nullptr;
#endif

}  // namespace

const BinaryLinearKernel binary_linear_kernel = {pack, products<ByBytes>, kByPopcount, threshold};

}  // namespace loci::LOCI_LEVEL
