// Optimiser updates of rows, on raw pointers. Legend: N rows, D width, U distinct rows, M references.
//
// Estimate for a row of float32 with Adam: row and both moments are read and written once, 24 D bytes (12 D in
// bfloat16, 8 D without moments); its sum of references comes from a cache (row_sum_kernel.h) and stays in the
// first-level cache. About 25 flops a column, with a square root and a division.
// So the bound is random access, and the rows ahead are fetched while one is updated.
#pragma once

#include <stdint.h>

#include "loci/ops/row_sum/row_sum_kernel.h"
#include "loci/ops/row_update/row_rule.h"

namespace loci {

// Pointers are those of row 0, and null where the rule has none.
template <class Real>
struct RowUpdateArguments {
  void* table;     // [N, D] Real, or the bits of bfloat16
  void* moment1;   // [N, D] alike
  void* moment2;   // [N, D] alike, or [N] Real
  int32_t* count;  // [N]
  float* master;   // [N, D]
  bool bfloat16_table, bfloat16_moments;
  int64_t width;                     // D
  const int64_t* row;                // [U]
  int64_t rows;                      // U
  const Real* gradient;              // [U, D], or null: the sums of the references
  RowSumArguments<Real> references;  // read where gradient is null
  double* square_sum;                // [U], or null
  RowUpdate update;
};

// Bias corrections by count, kept because powers are slow and counts repeat. Zeroed before the first call.
template <class Real>
struct RowBias {
  static constexpr int32_t kSize = 1024;
  int32_t count[kSize];
  Real rate[kSize];  // rate / (1 - b1^t)
  Real root[kSize];  // 1 / sqrt(1 - b2^t)
};

// What one thread works with.
template <class Real>
struct RowWorkspace {
  Real* scratch;  // kRowScratch * (D + 64)
  RowBias<Real>* bias;
};
constexpr int64_t kRowScratch = 6;

// Rows first .. last-1. `block_sums(context, u)` gives what sum_row wants; context null: there are none.
using BlockSums = const void* (*)(const void* context, int64_t u);
// square_sums writes a.square_sum alone. Random bits are those of rounding_bits (row_update_definition.h), many columns
// at once.
namespace base {
void update_rows(const RowUpdateArguments<float>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<float>& workspace);
void update_rows(const RowUpdateArguments<double>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<double>& workspace);
void square_sums(const RowUpdateArguments<float>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<float>& workspace);
void square_sums(const RowUpdateArguments<double>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<double>& workspace);
}  // namespace base
namespace avx2 {
void update_rows(const RowUpdateArguments<float>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<float>& workspace);
void update_rows(const RowUpdateArguments<double>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<double>& workspace);
void square_sums(const RowUpdateArguments<float>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<float>& workspace);
void square_sums(const RowUpdateArguments<double>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<double>& workspace);
}  // namespace avx2
namespace avx512 {
void update_rows(const RowUpdateArguments<float>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<float>& workspace);
void update_rows(const RowUpdateArguments<double>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<double>& workspace);
void square_sums(const RowUpdateArguments<float>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<float>& workspace);
void square_sums(const RowUpdateArguments<double>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<double>& workspace);
}  // namespace avx512

}  // namespace loci
