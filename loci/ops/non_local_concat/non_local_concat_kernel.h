// One walk over sorted queries and keys that sums relu(a_i + b_j) g_j, on raw pointers. Legend: N queries, M keys,
// columns: a slice of the V numbers of a value.
//
// Estimate for a slice of 64 columns: a key is 256 bytes read and 192 operations in float64, a query the same and 256
// bytes written; N + M of them in place of N M * 128 operations.
#pragma once

#include <stdint.h>

namespace loci {

constexpr int64_t kWalkColumns = 64;  // of a slice at most

// For query i, in the order of a ascending:
//   P0 = sum of g_j, P1 = sum of b_j g_j, over the keys with not b_j <= -a_i, in the order of b descending
//   y_i = scale * (a_i P0 + P1)         if y is given
//   dot_i = scale * <P0, other_i>       if dot is given; over this slice
struct ReluWalk {
  const float *a, *b;                // [N], [M]
  const int32_t *a_order, *b_order;  // ascending, descending; NaN last, first
  int64_t N, M;
  const float* g;      // [M, stride]: the slice's first column
  const float* other;  // [N, stride]
  float* y;            // [N, stride]
  double* dot;         // [N]
  int64_t stride, columns;
  double scale;
};

struct NonLocalConcatKernel {
  void (*walk)(const ReluWalk& w);
};

namespace base {
extern const NonLocalConcatKernel non_local_concat_kernel;
}
namespace avx2 {
extern const NonLocalConcatKernel non_local_concat_kernel;
}
namespace avx512 {
extern const NonLocalConcatKernel non_local_concat_kernel;
}

}  // namespace loci
