// Softmax over rows of scores, and its gradient, in place, on raw pointers. Legend: R rows, M columns.
//
// Estimate: three passes over a row that stays in the first-level cache; exp costs 12 operations a number. The bits are
// the same at every level: sums run over 16 partial sums, and no product is contracted with a sum.
#pragma once

#include <stdint.h>

namespace loci {

// Stored: float, or uint16_t for the bits of a bfloat16.
template <class Stored>
struct SoftmaxRows {
  // s [R, M] := softmax of each row. scratch [M].
  void (*softmax)(Stored* s, int64_t R, int64_t M, float* scratch);
  // dp [R, M] := scale * p (dp - sum over the row of p dp).
  void (*gradient)(const Stored* p, Stored* dp, int64_t R, int64_t M, float scale);
};

struct NonLocalSoftmaxKernel {
  SoftmaxRows<float> float32;
  SoftmaxRows<uint16_t> bfloat16;
};

namespace base {
extern const NonLocalSoftmaxKernel non_local_softmax_kernel;
}
namespace avx2 {
extern const NonLocalSoftmaxKernel non_local_softmax_kernel;
}
namespace avx512 {
extern const NonLocalSoftmaxKernel non_local_softmax_kernel;
}

}  // namespace loci
