// The loops of nn/batch_norm.h, on raw pointers. Each feature is summed over the tokens of a call in order, 16 of them
// in Real and these sums in double: the same bits at every level.
// Legend: T tokens, C features. x, y, dy, dx [T, C]; all others [C], of which mean + rest is the mean: what Real leaves
// of it counts where it is many deviations from 0. x and dx may be in bfloat16 (as bits), where y and dy are float:
// then no copy of x in float is made, nor one of its gradient.
//
// Estimate, at the speed of memory: the statistics read x, the normalisation reads it and writes y, the sums of the
// gradient read x and dy, the gradient reads them again and writes dx.
#pragma once

#include <stdint.h>

namespace loci {

template <typename Element, typename Real>
struct BatchNormKernel {
  // sum and square [C] of x - origin: near the mean, so that the squares are exact enough.
  void (*sums)(const Element* x, const Real* origin, int64_t tokens, int64_t features, double* sum, double* square);
  // y = (x - mean) * factor + bias.
  void (*normalise)(const Element* x, const Real* mean, const Real* rest, const Real* factor, const Real* bias,
                    int64_t tokens, int64_t features, Real* y);
  // y = x * s + (bias - mean * s) with s = gain / sqrt(variance + epsilon), for statistics that are known. room: 2 C.
  void (*apply)(const Element* x, const Real* mean, const Real* variance, const Real* gain, const Real* bias,
                Real epsilon, int64_t tokens, int64_t features, Real* y, Real* room);
  // sum and product [C] of dy and dy * (x - mean).
  void (*gradient_sums)(const Element* x, const Real* dy, const Real* mean, const Real* rest, int64_t tokens,
                        int64_t features, double* sum, double* product);
  // dx = factor * (dy - shift - (x - mean) * slope).
  void (*gradient)(const Element* x, const Real* dy, const Real* mean, const Real* rest, const Real* factor,
                   const Real* shift, const Real* slope, int64_t tokens, int64_t features, Element* dx);
};

namespace base {
extern const BatchNormKernel<float, float> batch_norm_float32;
extern const BatchNormKernel<double, double> batch_norm_float64;
extern const BatchNormKernel<uint16_t, float> batch_norm_bfloat16;
}  // namespace base
namespace avx2 {
extern const BatchNormKernel<float, float> batch_norm_float32;
extern const BatchNormKernel<double, double> batch_norm_float64;
extern const BatchNormKernel<uint16_t, float> batch_norm_bfloat16;
}  // namespace avx2
namespace avx512 {
extern const BatchNormKernel<float, float> batch_norm_float32;
extern const BatchNormKernel<double, double> batch_norm_float64;
extern const BatchNormKernel<uint16_t, float> batch_norm_bfloat16;
}  // namespace avx512

}  // namespace loci
