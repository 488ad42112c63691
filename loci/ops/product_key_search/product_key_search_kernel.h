// The gradients of the search, on raw pointers. Both go through the sub-keys that a token and head selected, with their
// score gradients summed: at most K of n.
// Legend: T tokens, H heads, P = T * H, w width of half a query, n sub-keys of a half, K top_k.
#pragma once

#include <stdint.h>

namespace loci {

// What every (token, head) selected in one half. Entries 0 .. count-1 of each row of K count, in order of their rank.
template <typename Real>
struct SelectedSubKeys {
  int32_t* sub_key;  // [P, K]
  Real* grad;        // [P, K] gradient of the sub-score
  int32_t* count;    // [P]
  int64_t top_k;     // K
  int64_t heads;     // H
  int64_t n;
  int64_t width;  // w
};

template <typename Real>
struct ProductKeySearchKernel {
  // Rows first .. last-1 of index and grad_score [P, K]: address / n2 into one, address % n2 into the other.
  // scratch: n1 + n2 reals, zeroed; left zeroed.
  void (*collect)(const int64_t* index, const Real* grad_score, int64_t first, int64_t last,
                  const SelectedSubKeys<Real>& one, const SelectedSubKeys<Real>& other, Real* scratch, char* seen);
  // grad_query[p * stride + 0 .. w-1] = sum of grad * keys[head of p, sub_key], for rows first .. last-1. keys [H, n,
  // w].
  void (*grad_query)(const SelectedSubKeys<Real>& selected, const Real* keys, Real* grad_query, int64_t stride,
                     int64_t first, int64_t last);
  // grad_keys [H, n, w], columns begin .. end-1 of one head: += grad * query[p * stride ...], over the tokens in order.
  void (*grad_keys)(const SelectedSubKeys<Real>& selected, const Real* query, int64_t stride, int64_t tokens,
                    int64_t head, int64_t begin, int64_t end, Real* grad_keys);
};

namespace base {
extern const ProductKeySearchKernel<float> product_key_search_float32;
extern const ProductKeySearchKernel<double> product_key_search_float64;
}  // namespace base
namespace avx2 {
extern const ProductKeySearchKernel<float> product_key_search_float32;
extern const ProductKeySearchKernel<double> product_key_search_float64;
}  // namespace avx2
namespace avx512 {
extern const ProductKeySearchKernel<float> product_key_search_float32;
extern const ProductKeySearchKernel<double> product_key_search_float64;
}  // namespace avx512

}  // namespace loci
