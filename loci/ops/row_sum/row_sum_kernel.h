// Sums of sorted row references, on raw pointers. Legend: M references, D width, U distinct rows.
#pragma once

#include <stdint.h>

namespace loci {

// References of one row are summed in blocks of this many, so that a popular row's sum stays accurate.
constexpr int64_t kRowSumBlock = 128;

template <class Real>
struct RowSumArguments {
  const int64_t* begin;         // [U + 1]: the references of row u are order[begin[u]] .. order[begin[u + 1] - 1]
  const int64_t* order;         // [M] positions in coefficient and source_index
  const Real* coefficient;      // [M]
  const int64_t* source_index;  // [M]
  const Real* source;           // [S, D]
  int64_t width;                // D
  Real* gradient;               // [U, D], written
};

// Rows first .. last-1. `block` is scratch of D reals.
namespace base {
void sum_rows(const RowSumArguments<float>& a, int64_t first, int64_t last, float* block);
void sum_rows(const RowSumArguments<double>& a, int64_t first, int64_t last, double* block);
}  // namespace base
namespace avx2 {
void sum_rows(const RowSumArguments<float>& a, int64_t first, int64_t last, float* block);
void sum_rows(const RowSumArguments<double>& a, int64_t first, int64_t last, double* block);
}  // namespace avx2
namespace avx512 {
void sum_rows(const RowSumArguments<float>& a, int64_t first, int64_t last, float* block);
void sum_rows(const RowSumArguments<double>& a, int64_t first, int64_t last, double* block);
}  // namespace avx512

}  // namespace loci
