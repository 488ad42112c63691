// The loops of batch_norm.h, on raw pointers. Each feature is summed over the tokens of a call in order, 16 of them in
// Real and these sums in double: the same bits at every level.
// Legend: T tokens, C features. x, y, dy, dx [T, C]; all others [C]. The mean is `mean` + `low`, its rounded value and
// what rounding left. x and dx may be bfloat16 (as bits) where y and dy are float: then no copy in float is made.
//
// Estimate, at the speed of memory: the statistics read x, the normalisation reads it and writes y, the sums of the
// gradient read x and dy, the gradient reads them again and writes dx.
#pragma once

#include <stdint.h>

namespace loci {

template <typename Element, typename Real>
struct BatchNormFunctions {
  // sum and square [C] of x - origin: near the mean, so that the squares are exact enough.
  void (*sums)(const Element* x, const Real* origin, int64_t tokens, int64_t features, double* sum, double* square);
  // scale = 1 / sqrt(variance + epsilon).
  void (*scales)(const double* variance, double epsilon, int64_t features, double* scale);
  // y = (x - mean) * factor + bias.
  void (*normalise)(const Element* x, const Real* mean, const Real* low, const Real* factor, const Real* bias,
                    int64_t tokens, int64_t features, Real* y);
  // sum and product [C] of dy and dy * (x - mean).
  void (*gradient_sums)(const Element* x, const Real* dy, const Real* mean, const Real* low, int64_t tokens,
                        int64_t features, double* sum, double* product);
  // dx = factor * (dy - shift - (x - mean) * slope).
  void (*gradient)(const Element* x, const Real* dy, const Real* mean, const Real* low, const Real* factor,
                   const Real* shift, const Real* slope, int64_t tokens, int64_t features, Element* dx);
};

struct BatchNormKernel {
  BatchNormFunctions<double, double> float64;
  BatchNormFunctions<float, float> float32;
  BatchNormFunctions<uint16_t, float> bfloat16;
};

namespace base {
extern const BatchNormKernel batch_norm_kernel;
}
namespace avx2 {
extern const BatchNormKernel batch_norm_kernel;
}
namespace avx512 {
extern const BatchNormKernel batch_norm_kernel;
}

}  // namespace loci
