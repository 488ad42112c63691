#include "loci/ops/table_read/table_read_kernel.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// The products of AVX512_BF16 are of no use here: they would round weights and gradients to bfloat16 and take subnormal
// numbers for zero. Widening bfloat16 is a shift, and the bound is memory.

namespace loci::LOCI_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr __mmask16 kAll = 0xffff;  // the forms without a mask make GCC 12 warn
#else
constexpr int kVectorBytes = 32;
#endif

typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef double Doubles __attribute__((vector_size(kVectorBytes)));
typedef float Float4 __attribute__((vector_size(16)));

// How rows are stored, and how a vector of them is read. All conversions are exact.
struct Float64 {
  using Element = double;
  using Real = double;
  using Vector = Doubles;
  static void load(const Element* from, Vector& to) { __builtin_memcpy(&to, from, sizeof to); }
  static Real one(Element x) { return x; }
};

struct Float32 {
  using Element = float;
  using Real = float;
  using Vector = Floats;
  static void load(const Element* from, Vector& to) { __builtin_memcpy(&to, from, sizeof to); }
  static Real one(Element x) { return x; }
};

struct Bfloat16 {
  using Element = uint16_t;
  using Real = float;
  using Vector = Floats;
  static void load(const Element* from, Vector& to) {
#if defined(__AVX512F__)
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    to = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, _mm512_maskz_cvtepu16_epi32(kAll, bits), 16));
#elif defined(__AVX2__)
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    to = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
#else
    for (uint64_t i = 0; i < sizeof(Vector) / sizeof(Real); ++i) to[i] = one(from[i]);
#endif
  }
  static Real one(Element x) {
    const uint32_t wide = static_cast<uint32_t>(x) << 16;
    Real value;
    __builtin_memcpy(&value, &wide, sizeof value);
    return value;
  }
};

struct Float16 {
  using Element = uint16_t;
  using Real = float;
  using Vector = Floats;
  static void load(const Element* from, Vector& to) {
    Real values[sizeof(Vector) / sizeof(Real)];
    for (uint64_t i = 0; i < sizeof(Vector) / sizeof(Real); ++i) values[i] = one(from[i]);
    __builtin_memcpy(&to, values, sizeof to);
  }
  // Exponent and mantissa move to where float32 has them; times 2^112 corrects the bias, also of subnormal numbers.
  static Real one(Element x) {
    const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16;
    uint32_t bits = static_cast<uint32_t>(x & 0x7fff) << 13;
    float value;
    if (bits >= 0x0f800000) {  // infinity or NaN
      bits |= 0x7f800000;
    } else {
      __builtin_memcpy(&value, &bits, sizeof value);
      value *= 0x1p112f;
      __builtin_memcpy(&bits, &value, sizeof bits);
    }
    bits |= sign;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
  }
};

// The row's scale is folded into its weight, or into the finished product.
struct Int8 {
  using Element = int8_t;
  using Real = float;
  using Vector = Floats;
  static void load(const Element* from, Vector& to) {
#if defined(__AVX512F__)
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    to = _mm512_maskz_cvtepi32_ps(kAll, _mm512_maskz_cvtepi8_epi32(kAll, bytes));
#elif defined(__AVX2__)
    to = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
    for (uint64_t i = 0; i < sizeof(Vector) / sizeof(Real); ++i) to[i] = one(from[i]);
#endif
  }
  static Real one(Element x) { return static_cast<Real>(x); }
};

template <typename Rows>
struct Reader {
  using Element = typename Rows::Element;
  using Real = typename Rows::Real;
  using Vector = typename Rows::Vector;
  static constexpr int64_t kLanes = sizeof(Vector) / sizeof(Real);
  static constexpr int64_t kLine = 64 / sizeof(Element);  // elements of a cache line
  static constexpr int64_t kPerLine = kLine < kLanes ? 1 : kLine / kLanes;
  static constexpr int64_t kStep = kPerLine * kLanes;
  static constexpr int kTogether = 4;  // rows
  // Positions ahead, of long and of short rows. With AVX-512 long ones go into the second-level cache, which can wait
  // for more lines than the first: a tenth quicker on a Xeon, but a third slower for short ones.
#if defined(__AVX512F__)
  static constexpr int64_t kAheadLong = 32, kAheadShort = 8;
  static constexpr int kLongInto = 2;
#else
  static constexpr int64_t kAheadLong = 4, kAheadShort = 8;
  static constexpr int kLongInto = 3;
#endif
  static constexpr bool kScaled = __is_same(Rows, Int8);

  // Of any index, also of one that was not checked yet: it serves prefetches alone until then.
  static uintptr_t address(const TableReadArguments& a, int64_t position) {
    return reinterpret_cast<uintptr_t>(a.table) +
           static_cast<uintptr_t>(a.index[position]) * static_cast<uintptr_t>(a.row_stride) * sizeof(Element);
  }

  struct Rows4 {
    const Element* row[kTogether];
    uintptr_t next[kTogether];
    bool are_long;
  };

  template <int kCount>
  static Rows4 rows_at(const TableReadArguments& a, int64_t position) {
    Rows4 rows;
    const int64_t last = a.tokens * a.reads - 1;
    rows.are_long = a.width * static_cast<int64_t>(sizeof(Element)) > 1024;
    const int64_t ahead = rows.are_long ? kAheadLong : kAheadShort;
    for (int r = 0; r < kCount; ++r) {
      const int64_t next = position + r + ahead < last ? position + r + ahead : last;
      rows.row[r] = reinterpret_cast<const Element*>(address(a, position + r));
      rows.next[r] = address(a, next);
      if constexpr (kScaled) {
        prefetch(reinterpret_cast<uintptr_t>(a.scale) + 4 * static_cast<uintptr_t>(a.index[next]), rows.are_long);
      }
    }
    return rows;
  }

  static void prefetch(uintptr_t address, bool of_long_row) {
    const void* const line = reinterpret_cast<const void*>(address);
    if (of_long_row) {
      __builtin_prefetch(line, 0, kLongInto);
    } else {
      __builtin_prefetch(line);
    }
  }

  template <int kCount>
  static void prefetch(const Rows4& rows, int64_t d) {
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r) {
      prefetch(rows.next[r] + static_cast<uintptr_t>(d) * sizeof(Element), rows.are_long);
    }
  }

  // sum[d] += weight[0] * row0[d], then row1, row2 ...
  template <int kCount>
  static void add(const TableReadArguments& a, int64_t position, const Real* given, Real* __restrict sum) {
    const Rows4 rows = rows_at<kCount>(a, position);
    Real weight[kCount];
    for (int r = 0; r < kCount; ++r) {
      weight[r] = given[r];
      if constexpr (kScaled) weight[r] *= a.scale[a.index[position + r]];
    }
    const auto add_vector = [&](int64_t d) {
      Vector total, value;
      __builtin_memcpy(&total, sum + d, sizeof total);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        Rows::load(rows.row[r] + d, value);
        total += value * weight[r];
      }
      __builtin_memcpy(sum + d, &total, sizeof total);
    };
    int64_t d = 0;
    for (; d + kStep <= a.width; d += kStep) {
      prefetch<kCount>(rows, d);
#pragma GCC unroll 8
      for (int64_t v = 0; v < kPerLine; ++v) add_vector(d + v * kLanes);
    }
    if (d < a.width) prefetch<kCount>(rows, d);
    for (; d + kLanes <= a.width; d += kLanes) add_vector(d);
    for (; d < a.width; ++d) {
      for (int r = 0; r < kCount; ++r) sum[d] += Rows::one(rows.row[r][d]) * weight[r];
    }
  }

  // The position of a token's first index outside the table, or -1. The sign bit of `bad` is set if any index is.
  static int64_t bad_index(const TableReadArguments& a, int64_t token) {
    const int64_t* index = a.index + token * a.reads;
    const auto last = static_cast<uint64_t>(a.rows - 1);
    uint64_t bad = 0;
    for (int64_t r = 0; r < a.reads; ++r) {
      const auto i = static_cast<uint64_t>(index[r]);
      bad |= i | (last - i);
    }
    if (bad >> 63 == 0) return -1;
    int64_t r = 0;
    while (index[r] >= 0 && index[r] < a.rows) ++r;
    return token * a.reads + r;
  }

  static int64_t read(const TableReadArguments& a, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      if (const int64_t bad = bad_index(a, t); bad >= 0) return bad;
      const Real* weight = static_cast<const Real*>(a.factor) + t * a.reads;
      Real* sum = static_cast<Real*>(a.out) + t * a.width;
      for (int64_t d = 0; d < a.width; ++d) sum[d] = 0;
      int64_t r = 0;
      for (; r + kTogether <= a.reads; r += kTogether) add<kTogether>(a, t * a.reads + r, weight + r, sum);
      for (; r < a.reads; ++r) add<1>(a, t * a.reads + r, weight + r, sum);
    }
    return -1;
  }

  // Dot products in 16 partial sums each, the same at every level, added by halves at the end.
  static constexpr int64_t kPartials = 16;
  static constexpr int64_t kVectors = kPartials / kLanes;

  static Real total(const Vector* partial, const Real* x, const Element* row, int64_t d, int64_t width) {
    Real sum[kPartials];
    __builtin_memcpy(sum, partial, sizeof sum);
    for (int64_t l = 0; d < width; ++d, ++l) sum[l] += x[d] * Rows::one(row[d]);
    for (int64_t step = kPartials / 2; step > 0; step /= 2) {
      for (int64_t l = 0; l < step; ++l) sum[l] += sum[l + step];
    }
    return sum[0];
  }

  // The same of four rows at once: a transposition of 4 x 4 sums. For widths without a rest.
  static void total_of_four(const Vector (*partial)[kVectors], Real* out) {
    Float4 row[kTogether];
    for (int r = 0; r < kTogether; ++r) {
      Float4 quarter[4];
      __builtin_memcpy(quarter, partial[r], sizeof quarter);
      row[r] = (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
    }
    const auto halves = [](Float4 a, Float4 b) {  // a0 + a2, b0 + b2, a1 + a3, b1 + b3
      return __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    };
    const Float4 low = halves(row[0], row[1]), high = halves(row[2], row[3]);
    const Float4 sum = __builtin_shufflevector(low, high, 0, 1, 4, 5) + __builtin_shufflevector(low, high, 2, 3, 6, 7);
    __builtin_memcpy(out, &sum, sizeof sum);
  }

  template <int kCount>
  static void dot(const TableReadArguments& a, int64_t position, const Real* x, Real* out) {
    const Rows4 rows = rows_at<kCount>(a, position);
    constexpr int64_t step = kLine < kPartials ? kPartials : kLine;
    Vector partial[kCount][kVectors];
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v) partial[r][v] = Vector{};
    }
    const auto add_partials = [&](int64_t d) {
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v) {
        Vector left, right;
        __builtin_memcpy(&left, x + d + v * kLanes, sizeof left);
#pragma GCC unroll 4
        for (int r = 0; r < kCount; ++r) {
          Rows::load(rows.row[r] + d + v * kLanes, right);
          partial[r][v] += left * right;
        }
      }
    };
    int64_t d = 0;
    for (; d + step <= a.width; d += step) {
      for (int64_t line = 0; line < step; line += kLine) prefetch<kCount>(rows, d + line);
#pragma GCC unroll 4
      for (int64_t p = 0; p < step; p += kPartials) add_partials(d + p);
    }
    if (d < a.width) prefetch<kCount>(rows, d);
    for (; d + kPartials <= a.width; d += kPartials) add_partials(d);
    if (kCount == kTogether && sizeof(Real) == sizeof(float) && d == a.width) {
      if constexpr (sizeof(Real) == sizeof(float)) total_of_four(partial, out);
    } else {
      for (int r = 0; r < kCount; ++r) out[r] = total(partial[r], x, rows.row[r], d, a.width);
    }
    if constexpr (kScaled) {
      for (int r = 0; r < kCount; ++r) out[r] *= a.scale[a.index[position + r]];
    }
  }

  static int64_t project(const TableReadArguments& a, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      if (const int64_t bad = bad_index(a, t); bad >= 0) return bad;
      const Real* x = static_cast<const Real*>(a.factor) + t * a.width;
      Real* out = static_cast<Real*>(a.out);
      const int64_t end = (t + 1) * a.reads;
      int64_t p = t * a.reads;
      for (; p + kTogether <= end; p += kTogether) dot<kTogether>(a, p, x, out + p);
      for (; p < end; ++p) dot<1>(a, p, x, out + p);
    }
    return -1;
  }

  static constexpr TableReadKernel::OfRows functions() { return {read, project}; }
};

}  // namespace

const TableReadKernel table_read_kernel = {Reader<Float64>::functions(), Reader<Float32>::functions(),
                                           Reader<Bfloat16>::functions(), Reader<Float16>::functions(),
                                           Reader<Int8>::functions()};

}  // namespace loci::LOCI_LEVEL
