// Inner products of few vectors with the rows of a matrix, on raw pointers.
// Legend: T vectors x, O rows of the weight (outputs), d inputs of each.
//
// Estimate: 4 O d bytes of float32 weights (2 of bfloat16) from the nearest cache that holds them, once for all T: the
// 2 T O d flops hide behind them.
#pragma once

#include <stdint.h>

namespace loci {

// y[t * y_stride + o] = <x[t * x_stride ..], weight[o * d ..]> + bias[o] for t < T and o < O; a null bias adds nothing.
// T is at most FewLinearKernel::most_vectors. Input c is added to partial sum c % 16 at every level, and the products
// are rounded: the bits do not depend on the level, T or O.
template <typename Element>
using FewLinearFunction = void (*)(const Element* x, int64_t x_stride, int64_t T, const Element* weight,
                                   const float* bias, int64_t O, int64_t d, float* y, int64_t y_stride);

struct FewLinearKernel {
  static constexpr int64_t most_vectors = 4;
  static constexpr int64_t outputs = 4;  // made at once

  FewLinearFunction<float> float32;
  FewLinearFunction<uint16_t> bfloat16;  // bits
};

namespace base {
extern const FewLinearKernel few_linear_kernel;
}
namespace avx2 {
extern const FewLinearKernel few_linear_kernel;
}
namespace avx512 {
extern const FewLinearKernel few_linear_kernel;
}

}  // namespace loci
