#include "loci/ops/half_norm/half_norm_kernel.h"

#include <math.h>

namespace loci::LOCI_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

// Four sums a lane: entry c is added to sum c % (4 * lanes), whole groups first, then the rest one by one.
template <typename Real>
struct LaneSum {
  static constexpr int64_t size = 4 * kVectorBytes / static_cast<int64_t>(sizeof(Real));
  Real sum[size] = {};

  Real total() {
    for (int64_t half = size / 2; half > 0; half /= 2) {
      for (int64_t i = 0; i < half; ++i) sum[i] += sum[i + half];
    }
    return sum[0];
  }
};

// Sum of term(c) for c of 0 .. w-1.
template <typename Real, typename Term>
Real sum_of(int64_t w, const Term& term) {
  LaneSum<Real> lanes;
  int64_t c = 0;
  for (; c + lanes.size <= w; c += lanes.size) {
    for (int64_t i = 0; i < lanes.size; ++i) lanes.sum[i] += term(c + i);
  }
  Real rest = 0;
  for (; c < w; ++c) rest += term(c);
  return lanes.total() + rest;
}

template <typename Real>
void forward(const Real* __restrict x, const Real* __restrict gain, const Real* __restrict bias, int64_t rows,
             int64_t cycle, int64_t w, double epsilon, Real* __restrict y, Real* __restrict mean,
             Real* __restrict scale) {
  for (int64_t r = 0; r < rows; ++r) {
    const Real* __restrict from = x + r * w;
    const Real* __restrict factor = gain + r % cycle * w;
    Real* __restrict to = y + r * w;
    const Real middle = bias ? sum_of<Real>(w, [&](int64_t c) { return from[c]; }) / static_cast<Real>(w) : 0;
    const Real squares = sum_of<Real>(w, [&](int64_t c) { return (from[c] - middle) * (from[c] - middle); });
    const double variance = static_cast<double>(squares) / static_cast<double>(w);
    const Real inverse = static_cast<Real>(1 / sqrt(variance + epsilon));
    mean[r] = middle;
    scale[r] = inverse;
    if (bias) {
      const Real* __restrict shift = bias + r % cycle * w;
      for (int64_t c = 0; c < w; ++c) to[c] = (from[c] - middle) * inverse * factor[c] + shift[c];
    } else {
      for (int64_t c = 0; c < w; ++c) to[c] = from[c] * inverse * factor[c];
    }
  }
}

template <typename Real>
void backward(const Real* __restrict x, const Real* __restrict dy, const Real* __restrict mean,
              const Real* __restrict scale, const Real* __restrict gain, int64_t rows, int64_t cycle, int64_t w,
              Real* __restrict dx, double* __restrict dgain, double* __restrict dbias) {
  for (int64_t r = 0; r < rows; ++r) {
    const Real* __restrict xs = x + r * w;
    const Real* __restrict gs = dy + r * w;
    const Real* __restrict factor = gain + r % cycle * w;
    Real* __restrict to = dx + r * w;
    double* __restrict of_gain = dgain + r % cycle * w;
    const Real middle = mean[r], inverse = scale[r], count = static_cast<Real>(w);
    const Real along = sum_of<Real>(w, [&](int64_t c) { return gs[c] * factor[c] * ((xs[c] - middle) * inverse); });
    Real average = 0;
    if (dbias) {
      double* __restrict of_bias = dbias + r % cycle * w;
      average = sum_of<Real>(w, [&](int64_t c) { return gs[c] * factor[c]; }) / count;
      for (int64_t c = 0; c < w; ++c) of_bias[c] += static_cast<double>(gs[c]);
    }
    const Real slope = along / count;
    for (int64_t c = 0; c < w; ++c) {
      const Real normal = (xs[c] - middle) * inverse;
      of_gain[c] += static_cast<double>(gs[c] * normal);
      to[c] = inverse * (gs[c] * factor[c] - average - normal * slope);
    }
  }
}

}  // namespace

const HalfNormKernel<float> half_norm_float32 = {forward<float>, backward<float>};
const HalfNormKernel<double> half_norm_float64 = {forward<double>, backward<double>};

}  // namespace loci::LOCI_LEVEL
