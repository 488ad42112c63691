#include "loci/ops/few_linear/few_linear_kernel.h"

#include "loci/ops/vector_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef float Quad __attribute__((vector_size(16)));

constexpr int kLanes = kVectorBytes / 4;
constexpr int kPartials = 16;
constexpr int kVectors = kPartials / kLanes;  // that hold the partial sums of one inner product
constexpr int kTogether = FewLinearKernel::outputs;
// Inner products whose partial sums stay in registers.
constexpr int kProducts = kVectorBytes == 64 ? 16 : kVectorBytes == 32 ? 4 : 2;
// Columns that are fetched ahead: 8 KiB of four float32 rows. A whole row ahead, rows of 2,048 take a quarter more
// time.
constexpr int64_t kAhead = 512;

Floats widened(const float* from) {
  Floats vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

Floats widened(const uint16_t* from) {
  typedef uint16_t Low __attribute__((vector_size(kVectorBytes / 2)));
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  Low low;
  __builtin_memcpy(&low, from, sizeof low);
  const Bits bits = __builtin_convertvector(low, Bits) << 16;
  Floats vector;
  __builtin_memcpy(&vector, &bits, sizeof vector);
  return vector;
}

// The partial sums of one inner product, added by halves down to four.
Quad four_of(const Floats (&partial)[kVectors]) {
  Quad quad[kPartials / 4];
  __builtin_memcpy(quad, partial, sizeof quad);
  return (quad[0] + quad[2]) + (quad[1] + quad[3]);
}

// The sum of each of four quads.
Quad sums_of(const Quad (&row)[kTogether]) {
  const auto halves = [](Quad a, Quad b) {  // a0 + a2, b0 + b2, a1 + a3, b1 + b3
    return __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  };
  const Quad low = halves(row[0], row[1]), high = halves(row[2], row[3]);
  return __builtin_shufflevector(low, high, 0, 1, 4, 5) + __builtin_shufflevector(low, high, 2, 3, 6, 7);
}

// The sums of kT vectors x with kRows rows, at `first` and behind it. What comes next is fetched into the first-level
// cache and later rows into the second: from the third, a fifth more bytes a second.
template <int kT, int kRows, typename Element>
void partial_sums(const Element* const (&x)[kT], const Element* const* row, int64_t d, int first,
                  Quad (&sum)[kT][kTogether]) {
  Floats partial[kRows][kT][kVectors] = {};
  const auto add = [&](const Element* const* from, const Element* const* rows, int64_t c) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Floats factor[kT];
#pragma GCC unroll 4
      for (int t = 0; t < kT; ++t) factor[t] = widened(from[t] + c + v * kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        Floats weight = widened(rows[r] + c + v * kLanes);
        if (kT > 1) asm("" : "+x"(weight));  // keeps it in a register: one load for all x
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) partial[r][t][v] += factor[t] * weight;
      }
    }
  };
  const int64_t ahead = d < kAhead ? d : kAhead;
  int64_t c = 0;
  for (; c + kPartials <= d; c += kPartials) {
    const int64_t next = c + ahead < d ? c + ahead : c + ahead + (kTogether - 1) * d;
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      __builtin_prefetch(row[r] + next);
      __builtin_prefetch(row[r] + c + 4 * kTogether * d, /*write=*/0, /*locality=*/2);
    }
    add(x, row, c);
  }
  if (c < d) {  // the rest, followed by zeros
    Element rest[kT + kRows][kPartials] = {};
    const Element* from[kT + kRows];
    for (int i = 0; i < kT + kRows; ++i) {
      const Element* const tail = (i < kT ? x[i] : row[i - kT]) + c;
      for (int64_t k = 0; k < d - c; ++k) rest[i][k] = tail[k];
      from[i] = rest[i];
    }
    add(from, from + kT, 0);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < kT; ++t) sum[t][first + r] = four_of(partial[r][t]);
  }
}

template <int kT, typename Element>
void products(const Element* x, int64_t x_stride, const Element* weight, const float* bias, int64_t O, int64_t d,
              float* y, int64_t y_stride) {
  constexpr int kRows = kProducts / kT > kTogether ? kTogether : kProducts / kT > 0 ? kProducts / kT : 1;
  const Element* vector[kT];
  for (int t = 0; t < kT; ++t) vector[t] = x + t * x_stride;
  for (int64_t o = 0; o < O; o += kTogether) {
    const Element* row[kTogether];
    for (int r = 0; r < kTogether; ++r) row[r] = weight + (o + r < O ? o + r : O - 1) * d;  // the last row stands in
    Quad sum[kT][kTogether];
    for (int r = 0; r < kTogether; r += kRows) partial_sums<kT, kRows>(vector, row + r, d, r, sum);
    for (int t = 0; t < kT; ++t) {
      const Quad result = sums_of(sum[t]);
      for (int r = 0; r < kTogether && o + r < O; ++r) {
        y[t * y_stride + o + r] = bias ? result[r] + bias[o + r] : result[r];
      }
    }
  }
}

template <typename Element>
void few_linear(const Element* x, int64_t x_stride, int64_t T, const Element* weight, const float* bias, int64_t O,
                int64_t d, float* y, int64_t y_stride) {
  switch (T) {
    case 1:
      return products<1>(x, x_stride, weight, bias, O, d, y, y_stride);
    case 2:
      return products<2>(x, x_stride, weight, bias, O, d, y, y_stride);
    case 3:
      return products<3>(x, x_stride, weight, bias, O, d, y, y_stride);
    default:
      return products<4>(x, x_stride, weight, bias, O, d, y, y_stride);
  }
}

}  // namespace

const FewLinearKernel few_linear_kernel = {few_linear<float>, few_linear<uint16_t>};

}  // namespace loci::LOCI_LEVEL
