#include "loci/ops/product_key_search/product_key_search_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

template <typename Real>
void collect_half(int64_t sub_key, Real grad, Real* sum, char* seen, int32_t* list, int32_t& count) {
  if (!seen[sub_key]) {
    seen[sub_key] = 1;
    list[count++] = static_cast<int32_t>(sub_key);
  }
  sum[sub_key] += grad;
}

template <typename Real>
void take_sums(Real* sum, char* seen, const int32_t* list, int32_t count, Real* grad) {
  for (int32_t e = 0; e < count; ++e) {
    grad[e] = sum[list[e]];
    sum[list[e]] = 0;
    seen[list[e]] = 0;
  }
}

template <typename Real>
void collect(const int64_t* index, const Real* grad_score, int64_t first, int64_t last,
             const SelectedSubKeys<Real>& one, const SelectedSubKeys<Real>& other, Real* scratch, char* seen) {
  Real *sum1 = scratch, *sum2 = scratch + one.n;
  char *seen1 = seen, *seen2 = seen + one.n;
  const int64_t K = one.top_k;
  for (int64_t p = first; p < last; ++p) {
    int32_t count1 = 0, count2 = 0;
    for (int64_t r = p * K; r < (p + 1) * K; ++r) {
      const int64_t i = index[r] / other.n;
      collect_half(i, grad_score[r], sum1, seen1, one.sub_key + p * K, count1);
      collect_half(index[r] - i * other.n, grad_score[r], sum2, seen2, other.sub_key + p * K, count2);
    }
    take_sums(sum1, seen1, one.sub_key + p * K, count1, one.grad + p * K);
    take_sums(sum2, seen2, other.sub_key + p * K, count2, other.grad + p * K);
    one.count[p] = count1;
    other.count[p] = count2;
  }
}

template <typename Real>
void grad_query(const SelectedSubKeys<Real>& selected, const Real* keys, Real* grad_query, int64_t stride,
                int64_t first, int64_t last) {
  const int64_t w = selected.width;
  for (int64_t p = first; p < last; ++p) {
    const Real* head_keys = keys + p % selected.heads * selected.n * w;
    const int32_t* sub_key = selected.sub_key + p * selected.top_k;
    const Real* grad = selected.grad + p * selected.top_k;
    Real* __restrict to = grad_query + p * stride;
    for (int64_t c = 0; c < w; ++c) to[c] = 0;
    for (int32_t e = 0; e < selected.count[p]; ++e) {
      const Real* __restrict key = head_keys + sub_key[e] * w;
      const Real factor = grad[e];
      for (int64_t c = 0; c < w; ++c) to[c] += factor * key[c];
    }
  }
}

template <typename Real>
void grad_keys(const SelectedSubKeys<Real>& selected, const Real* query, int64_t stride, int64_t tokens, int64_t head,
               int64_t begin, int64_t end, Real* grad_keys) {
  const int64_t w = selected.width, size = end - begin;
  Real* head_keys = grad_keys + head * selected.n * w + begin;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t p = t * selected.heads + head;
    const Real* __restrict from = query + p * stride + begin;
    const int32_t* sub_key = selected.sub_key + p * selected.top_k;
    const Real* grad = selected.grad + p * selected.top_k;
    for (int32_t e = 0; e < selected.count[p]; ++e) {
      Real* __restrict key = head_keys + sub_key[e] * w;
      const Real factor = grad[e];
      for (int64_t c = 0; c < size; ++c) key[c] += factor * from[c];
    }
  }
}

}  // namespace

const ProductKeySearchKernel<float> product_key_search_float32 = {collect<float>, grad_query<float>, grad_keys<float>};
const ProductKeySearchKernel<double> product_key_search_float64 = {collect<double>, grad_query<double>,
                                                                   grad_keys<double>};

}  // namespace loci::LOCI_LEVEL
