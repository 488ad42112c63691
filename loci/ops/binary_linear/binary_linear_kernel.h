// Signs in words, on raw pointers: packing, products, thresholds. All results are exact.
// Legend: T vectors a, O vectors b, K signs (inputs) of each, w = ceil(K / 64) words.
//
// Estimate: 2 T O K operations of float32 products become T O w words of xor, popcount and sum. AVX-512 with vpopcntdq
// takes 3 instructions for 8 words, where float32 takes 32 multiply-adds; AVX2 takes 8 for 4 words. One vector a is
// 8 O w bytes, a 32nd of float32.
#pragma once

#include <stdint.h>

namespace loci {

struct BinaryLinearKernel {
  // y[t * y_stride + o] = K - 2 popcount(a[t * w ..] xor b[o * w ..]).
  using Products = void (*)(const uint64_t* a, int64_t T, const uint64_t* b, int64_t O, int64_t words, int64_t inputs,
                            int32_t* y, int64_t y_stride);

  // Bit 1 where x >= 0 does not hold: `inputs` numbers into ceil(inputs / 64) words.
  void (*pack)(const float* x, int64_t inputs, uint64_t* bits);
  Products products;
  Products products_by_popcount;  // by AVX512-VPOPCNTDQ, which the CPU must have; null at the other levels
  // Bit o = (y[o] < threshold[o]) xor bit o of `turned`; those behind the O-th are 0.
  void (*threshold)(const int32_t* y, int64_t O, const int32_t* threshold, const uint64_t* turned, uint64_t* bits);
};

namespace base {
extern const BinaryLinearKernel binary_linear_kernel;
}
namespace avx2 {
extern const BinaryLinearKernel binary_linear_kernel;
}
namespace avx512 {
extern const BinaryLinearKernel binary_linear_kernel;
}

}  // namespace loci
