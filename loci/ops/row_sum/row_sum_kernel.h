// Sums of sorted row references, on raw pointers. Legend: M references, D width, U distinct rows.
//
// Estimate for one row with r references: 4 r D bytes of sources, mostly from a cache (a source serves many rows), and
// 2 r D flops; the sum itself stays in registers and the first-level cache.
#pragma once

#include <stdint.h>

namespace loci {

// References of one row are summed in blocks of this many, so that a popular row's sum stays accurate.
constexpr int64_t kRowSumBlock = 128;

template <class Real>
struct RowSumArguments {
  const int64_t* begin;         // [U + 1]: the references of row u are begin[u] .. begin[u + 1] - 1
  const int32_t* source_index;  // [M]
  const Real* coefficient;      // [M]
  const Real* source;           // [S, D]
  int64_t width;                // D
};

// sum_references: references begin .. end-1 in sequence into sum [D]. sum_row: all of row u, in blocks; `block_sums`
// [blocks, D] has the blocks' sums where they were made before, or is null; `block` is scratch of D reals.
namespace base {
void sum_references(const RowSumArguments<float>& a, int64_t begin, int64_t end, float* sum);
void sum_references(const RowSumArguments<double>& a, int64_t begin, int64_t end, double* sum);
void sum_row(const RowSumArguments<float>& a, int64_t u, const float* block_sums, float* sum, float* block);
void sum_row(const RowSumArguments<double>& a, int64_t u, const double* block_sums, double* sum, double* block);
}  // namespace base
namespace avx2 {
void sum_references(const RowSumArguments<float>& a, int64_t begin, int64_t end, float* sum);
void sum_references(const RowSumArguments<double>& a, int64_t begin, int64_t end, double* sum);
void sum_row(const RowSumArguments<float>& a, int64_t u, const float* block_sums, float* sum, float* block);
void sum_row(const RowSumArguments<double>& a, int64_t u, const double* block_sums, double* sum, double* block);
}  // namespace avx2
namespace avx512 {
void sum_references(const RowSumArguments<float>& a, int64_t begin, int64_t end, float* sum);
void sum_references(const RowSumArguments<double>& a, int64_t begin, int64_t end, double* sum);
void sum_row(const RowSumArguments<float>& a, int64_t u, const float* block_sums, float* sum, float* block);
void sum_row(const RowSumArguments<double>& a, int64_t u, const double* block_sums, double* sum, double* block);
}  // namespace avx512

}  // namespace loci
