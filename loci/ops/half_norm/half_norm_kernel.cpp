#include "loci/ops/half_norm/half_norm_kernel.h"

#include <math.h>

namespace loci::LOCI_LEVEL {
namespace {

// Sum of term(c) for c of 0 .. w-1, in 16 partial sums at every level: entry c goes to sum c % 16, and the sums are
// added by halves. The inner loops have a fixed length, so that they become vectors of whatever width the level has;
// only the last w % 16 entries are added one by one.
template <typename Real, typename Term>
Real sum_of(int64_t w, const Term& term) {
  constexpr int64_t partials = 16;
  Real sum[partials] = {};
  int64_t c = 0;
  for (; c + partials <= w; c += partials) {
    for (int64_t i = 0; i < partials; ++i) sum[i] += term(c + i);
  }
  for (int64_t i = 0; c + i < w; ++i) sum[i] += term(c + i);
  for (int64_t half = partials / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) sum[i] += sum[i + half];
  }
  return sum[0];
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

const HalfNormKernel half_norm_kernel = {{forward<float>, backward<float>}, {forward<double>, backward<double>}};

}  // namespace loci::LOCI_LEVEL
