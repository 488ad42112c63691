// The loops of half_norm.h, on raw pointers. A row is one half of one head's query of one token; row r has the gain and
// bias of r % cycle. Sums are made in 16 partial sums in the rows' own precision: the same bits at every level.
// Legend: R rows, G = cycle = 2 H, w width of a row. x, y, dy, dx [R, w]; mean, scale [R]; gain, bias [G, w].
//
// Estimate: forward reads x and writes y once (8 w bytes a row in float32), backward reads x and dy and writes dx.
#pragma once

#include <stdint.h>

namespace loci {

template <typename Real>
struct HalfNormFunctions {
  // y = (x - mean) * scale * gain + bias with scale = 1 / sqrt(variance + epsilon). Without a bias (null) the mean is
  // taken as 0, which is the RMS norm.
  void (*forward)(const Real* x, const Real* gain, const Real* bias, int64_t rows, int64_t cycle, int64_t w,
                  double epsilon, Real* y, Real* mean, Real* scale);
  // g = dy * gain, n = (x - mean) * scale: dx = scale * (g - average(g) - n * average(g * n)), without the first
  // average for the RMS norm (dbias null); dgain += dy * n, dbias += dy. dgain, dbias [G, w] in double: they sum over
  // all tokens.
  void (*backward)(const Real* x, const Real* dy, const Real* mean, const Real* scale, const Real* gain, int64_t rows,
                   int64_t cycle, int64_t w, Real* dx, double* dgain, double* dbias);
};

struct HalfNormKernel {
  HalfNormFunctions<float> float32;
  HalfNormFunctions<double> float64;
};

namespace base {
extern const HalfNormKernel half_norm_kernel;
}
namespace avx2 {
extern const HalfNormKernel half_norm_kernel;
}
namespace avx512 {
extern const HalfNormKernel half_norm_kernel;
}

}  // namespace loci
