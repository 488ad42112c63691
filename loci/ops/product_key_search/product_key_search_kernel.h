// The sub-scores of the search and its gradients, on raw pointers.
// Legend: T tokens, H heads, w width of half a query, n sub-keys of a half, K top_k, c columns of w.
//
// Estimate per token: sub-scores 2 H 2 n w flops at the speed of fused multiply-adds (24 of them for 11 loads);
// gradients 2 H 2 m w flops each for the m <= K sub-keys that a half selected, from rows in the second-level cache.
// Random scores of n = 512 with K = 32 select m = 12. A dense product in place of the m rows would win below n = 32 or
// so, by less than what collecting the selection costs either way: gradients always go through the selected rows.
#pragma once

#include <stdint.h>

namespace loci {

enum class QueryElement { float32, bfloat16 };

// What the tokens of a range selected in one half, for one head. Token t has entries start[t] .. start[t+1]-1, in order
// of their rank, each sub-key once.
template <typename Real>
struct SelectedSubKeys {
  int32_t* start;    // [tokens + 1]
  int32_t* sub_key;  // [tokens * K]
  Real* grad;        // [tokens * K] gradient of the sub-score
};

// The gradients through what was selected.
template <typename Real>
struct ProductKeyGradients {
  // index and grad_score [tokens, K], `stride` between tokens: address / n2 into `first`, address % n2 into `second`.
  // scratch: n1 + n2 reals and seen: n1 + n2 bytes, zeroed; left zeroed. Returns -1, or the position of the first index
  // beyond n1 * n2, and then the rest is not done.
  int64_t (*collect)(const int64_t* index, const Real* grad_score, int64_t stride, int64_t tokens, int64_t top_k,
                     int64_t n1, int64_t n2, const SelectedSubKeys<Real>& first, const SelectedSubKeys<Real>& second,
                     Real* scratch, char* seen);
  // grad_query[t * stride + c] = sum of grad * keys[sub_key, c]. keys [n, w].
  void (*grad_query)(const SelectedSubKeys<Real>& selected, const Real* keys, int64_t tokens, int64_t w,
                     Real* grad_query, int64_t stride);
  // grad_keys [n, w] += grad * query[t * stride + c], over the tokens in order.
  void (*grad_keys)(const SelectedSubKeys<Real>& selected, const Real* query, int64_t stride, int64_t tokens, int64_t w,
                    Real* grad_keys);
};

struct ProductKeySearchKernel {
  static constexpr int64_t tokens = 48;  // of a block

  // Sub-scores in float32. Every score is one chain over c in order, whatever the block it is computed in.
  // query [t, w] of up to 48 tokens, `stride` elements between them, keys [n, w] -> score [n, 48], a column a token;
  // the vector with the last token is written whole. block: 52 w floats.
  void (*scores)(const void* query, QueryElement element, int64_t stride, int64_t t, const float* keys, int64_t n,
                 int64_t w, float* score, float* block);
  ProductKeyGradients<float> float32;
  ProductKeyGradients<double> float64;
};

namespace base {
extern const ProductKeySearchKernel product_key_search_kernel;
}
namespace avx2 {
extern const ProductKeySearchKernel product_key_search_kernel;
}
namespace avx512 {
extern const ProductKeySearchKernel product_key_search_kernel;
}

}  // namespace loci
