#include "loci/ops/row_sum/row_sum_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

// Product, then sum, each rounded: the levels and the definition agree in bits.
template <class Real>
void add_terms(const RowSumArguments<Real>& a, int64_t begin, int64_t end, Real* __restrict sum) {
  for (int64_t d = 0; d < a.width; ++d) sum[d] = 0;
  for (int64_t p = begin; p < end; ++p) {
    const int64_t reference = a.order[p];
    const Real coefficient = a.coefficient[reference];
    const Real* __restrict source = a.source + a.source_index[reference] * a.width;
    for (int64_t d = 0; d < a.width; ++d) sum[d] += coefficient * source[d];
  }
}

template <class Real>
void sum_rows_of(const RowSumArguments<Real>& a, int64_t first, int64_t last, Real* __restrict block) {
  for (int64_t u = first; u < last; ++u) {
    Real* __restrict gradient = a.gradient + u * a.width;
    int64_t begin = a.begin[u];
    const int64_t end = a.begin[u + 1];
    // The first block is summed in place: 0 + x differs from x in the sign of zero alone, and a sum from 0 has no -0.
    add_terms(a, begin, begin + kRowSumBlock < end ? begin + kRowSumBlock : end, gradient);
    for (begin += kRowSumBlock; begin < end; begin += kRowSumBlock) {
      add_terms(a, begin, begin + kRowSumBlock < end ? begin + kRowSumBlock : end, block);
      for (int64_t d = 0; d < a.width; ++d) gradient[d] += block[d];
    }
  }
}

}  // namespace

void sum_rows(const RowSumArguments<float>& a, int64_t first, int64_t last, float* block) {
  sum_rows_of(a, first, last, block);
}

void sum_rows(const RowSumArguments<double>& a, int64_t first, int64_t last, double* block) {
  sum_rows_of(a, first, last, block);
}

}  // namespace loci::LOCI_LEVEL
