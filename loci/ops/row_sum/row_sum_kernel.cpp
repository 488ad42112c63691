#include "loci/ops/row_sum/row_sum_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class Real>
struct Vector {
  typedef Real Type __attribute__((vector_size(kVectorBytes), aligned(sizeof(Real)), may_alias));
  static constexpr int64_t kLanes = kVectorBytes / sizeof(Real);
};

// Columns first .. first + kVectors * lanes - 1 of a block's sum, kept in registers. Product, then sum, each rounded:
// the levels and the definition agree in bits.
template <int kVectors, class Real>
void add_terms_of(const RowSumArguments<Real>& a, int64_t begin, int64_t end, int64_t first, Real* sum) {
  using Type = typename Vector<Real>::Type;
  Type total[kVectors] = {};
  const Real* source = a.source + first;
  for (int64_t p = begin; p < end; ++p) {
    const int64_t reference = a.order[p];
    const Type* term = reinterpret_cast<const Type*>(source + a.source_index[reference] * a.width);
    const Real coefficient = a.coefficient[reference];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) total[v] += coefficient * term[v];
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) reinterpret_cast<Type*>(sum + first)[v] = total[v];
}

template <class Real>
void add_terms(const RowSumArguments<Real>& a, int64_t begin, int64_t end, Real* sum) {
  constexpr int64_t kLanes = Vector<Real>::kLanes;
  int64_t first = 0;
  for (; first + 8 * kLanes <= a.width; first += 8 * kLanes) add_terms_of<8>(a, begin, end, first, sum);
  for (; first + 2 * kLanes <= a.width; first += 2 * kLanes) add_terms_of<2>(a, begin, end, first, sum);
  for (; first + kLanes <= a.width; first += kLanes) add_terms_of<1>(a, begin, end, first, sum);
  if (first == a.width) return;
  for (int64_t d = first; d < a.width; ++d) sum[d] = 0;
  for (int64_t p = begin; p < end; ++p) {
    const int64_t reference = a.order[p];
    const Real* source = a.source + a.source_index[reference] * a.width;
    for (int64_t d = first; d < a.width; ++d) sum[d] += a.coefficient[reference] * source[d];
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
