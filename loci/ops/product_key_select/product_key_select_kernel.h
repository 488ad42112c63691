// The search of one token and head, or of several tokens side by side, on raw pointers (contract:
// product_key_select.h).
#pragma once

#include <stdint.h>

namespace loci {

struct ProductKeySelectShape {
  int64_t n1, n2;     // sub-keys, below 2^31
  int64_t top_k;      // at most kProductKeySelectMost
  int64_t addresses;  // 1 .. n1 * n2, at least top_k
};

constexpr int64_t kProductKeySelectMost = 1024;

struct ProductKeySelectKernel {
  int64_t lanes;  // tokens of select_lanes
  int64_t (*scratch_bytes)(const ProductKeySelectShape& shape);
  // score1 [n1], score2 [n2] -> score [K], index [K]; scratch: that many bytes, aligned to 64.
  void (*select_float32)(const ProductKeySelectShape& shape, const float* score1, const float* score2, float* score,
                         int64_t* index, void* scratch);
  void (*select_float64)(const ProductKeySelectShape& shape, const double* score1, const double* score2, double* score,
                         int64_t* index, void* scratch);
  // Token l of `lanes` has score1[i * stride + l]; of the first `tokens`, score and index go `out` elements apart.
  // Returns how many of them were found side by side: the others, with scores that are equal or not finite, one by one.
  int64_t (*select_lanes)(const ProductKeySelectShape& shape, const float* score1, const float* score2, int64_t stride,
                          int64_t tokens, float* score, int64_t* index, int64_t out, void* scratch);
};

namespace base {
extern const ProductKeySelectKernel product_key_select_kernel;
}
namespace avx2 {
extern const ProductKeySelectKernel product_key_select_kernel;
}
namespace avx512 {
extern const ProductKeySelectKernel product_key_select_kernel;
}

}  // namespace loci
