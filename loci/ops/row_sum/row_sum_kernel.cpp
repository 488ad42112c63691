#include "loci/ops/row_sum/row_sum_kernel.h"

#include "loci/ops/vector_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

template <class Real>
struct RowVector {
  typedef Real Type __attribute__((vector_size(kVectorBytes), aligned(sizeof(Real)), may_alias));
  static constexpr int64_t kLanes = kVectorBytes / sizeof(Real);
};

// Columns first .. first + kVectors * lanes - 1 of a block's sum, kept in registers. The product is rounded before it
// is added, so that the levels and the definition agree in bits.
template <int kVectors, class Real>
void add_terms_of(const RowSumArguments<Real>& a, int64_t begin, int64_t end, int64_t first, Real* sum) {
  using Type = typename RowVector<Real>::Type;
  Type total[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) total[v] = Type{};
  const Real* source = a.source + first;
  for (int64_t p = begin; p < end; ++p) {
    const Type* term = reinterpret_cast<const Type*>(source + a.source_index[p] * a.width);
    const Real coefficient = a.coefficient[p];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) total[v] += coefficient * term[v];
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) reinterpret_cast<Type*>(sum + first)[v] = total[v];
}

template <class Real>
void add_terms(const RowSumArguments<Real>& a, int64_t begin, int64_t end, Real* sum) {
  constexpr int64_t kLanes = RowVector<Real>::kLanes;
  int64_t first = 0;
  for (; first + 8 * kLanes <= a.width; first += 8 * kLanes) add_terms_of<8>(a, begin, end, first, sum);
  for (; first + 2 * kLanes <= a.width; first += 2 * kLanes) add_terms_of<2>(a, begin, end, first, sum);
  for (; first + kLanes <= a.width; first += kLanes) add_terms_of<1>(a, begin, end, first, sum);
  if (first == a.width) return;
  for (int64_t d = first; d < a.width; ++d) sum[d] = 0;
  for (int64_t p = begin; p < end; ++p) {
    const Real* source = a.source + a.source_index[p] * a.width;
    for (int64_t d = first; d < a.width; ++d) sum[d] += a.coefficient[p] * source[d];
  }
}

template <class Real>
void sum_row_of(const RowSumArguments<Real>& a, int64_t u, const Real* block_sums, Real* __restrict sum, Real* block) {
  const int64_t end = a.begin[u + 1];
  const auto last_of = [end](int64_t begin) { return begin + kRowSumBlock < end ? begin + kRowSumBlock : end; };
  int64_t begin = a.begin[u];
  // The first block is summed into `sum` itself. Adding it to 0 gives the same bits, since a sum that starts at 0 is
  // never -0.
  if (block_sums == nullptr) {
    add_terms(a, begin, last_of(begin), sum);
  } else {
    for (int64_t d = 0; d < a.width; ++d) sum[d] = block_sums[d];
  }
  for (begin += kRowSumBlock; begin < end; begin += kRowSumBlock) {
    const Real* __restrict next = block;
    if (block_sums == nullptr) {
      add_terms(a, begin, last_of(begin), block);
    } else {
      next = block_sums += a.width;
    }
    for (int64_t d = 0; d < a.width; ++d) sum[d] += next[d];
  }
}

}  // namespace

const RowSumKernel row_sum_kernel = {{add_terms<float>, sum_row_of<float>}, {add_terms<double>, sum_row_of<double>}};

}  // namespace loci::LOCI_LEVEL
