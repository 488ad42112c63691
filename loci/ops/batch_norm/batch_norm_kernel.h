// The loops of nn/batch_norm.h, on raw pointers. Features are independent and each is summed over the tokens in order,
// in double: the same bits at every level and for any number of threads.
// Legend: T tokens, C features. x, y, dy, dx [T, C]; mean, variance, scale [C] in double; gain, bias [C].
//
// Estimate: one pass over x for the statistics, one over x and y; the gradient two passes over x and dy, one over dx.
#pragma once

#include <stdint.h>

namespace loci {

template <typename Real>
struct BatchNormKernel {
  static constexpr int64_t slice = 128;  // features of a call, at most

  // mean and biased variance of the features first .. last-1.
  void (*statistics)(const Real* x, int64_t tokens, int64_t features, int64_t first, int64_t last, double* mean,
                     double* variance);
  // y = (x - mean) * scale * gain + bias for `tokens` rows.
  void (*normalise)(const Real* x, const double* mean, const double* scale, const Real* gain, const Real* bias,
                    int64_t tokens, int64_t features, Real* y);
  // y = x * s + (bias - mean * s) with s = gain / sqrt(variance + epsilon), for statistics that are known. room: 2 C.
  void (*apply)(const Real* x, const Real* mean, const Real* variance, const Real* gain, const Real* bias, Real epsilon,
                int64_t tokens, int64_t features, Real* y, Real* room);
  // dx = gain * scale * (dy - sum(dy) / T - xhat * sum(dy * xhat) / T) with xhat = (x - mean) * scale, for the features
  // first .. last-1; dgain, dbias [C].
  void (*gradient)(const Real* x, const Real* dy, const double* mean, const double* scale, const Real* gain,
                   int64_t tokens, int64_t features, int64_t first, int64_t last, Real* dx, Real* dgain, Real* dbias);
};

namespace base {
extern const BatchNormKernel<float> batch_norm_float32;
extern const BatchNormKernel<double> batch_norm_float64;
}  // namespace base
namespace avx2 {
extern const BatchNormKernel<float> batch_norm_float32;
extern const BatchNormKernel<double> batch_norm_float64;
}  // namespace avx2
namespace avx512 {
extern const BatchNormKernel<float> batch_norm_float32;
extern const BatchNormKernel<double> batch_norm_float64;
}  // namespace avx512

}  // namespace loci
