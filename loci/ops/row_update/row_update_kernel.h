// Optimiser updates of rows, on raw pointers. Legend: N rows, D width, U distinct rows, M references.
//
// Estimate for a row of float32 with Adam: row and both moments are read and written once, 24 D bytes (12 D in
// bfloat16, 8 D without moments); its sum of references comes from a cache (row_sum_kernel.h) and stays in the
// first-level cache. About 25 flops a column, with a square root and a division.
// So random access is the bound: the next rows are fetched while one is updated.
#pragma once

#include <stdint.h>

#include "loci/ops/row_sum/row_sum_kernel.h"
#include "loci/ops/row_update/row_rule.h"

namespace loci {

// Pointers are those of row 0. That of a state that the rule has not is null.
template <class Real>
struct RowUpdateArguments {
  void* table;     // [N, D] Real, or the bits of bfloat16
  void* moment1;   // [N, D]
  void* moment2;   // [N, D], or [N] Real
  int32_t* count;  // [N]
  float* master;   // [N, D]
  bool bfloat16_table, bfloat16_moments;
  int64_t width;                            // D
  const int64_t* row;                       // [U]
  int64_t rows;                             // U
  const RowSumArguments<Real>* references;  // the gradient is the sums of these; null: `gradient` is given
  const Real* gradient;                     // [U, D], not read where there are references
  double* square_sum;                       // [U], or null where none are wanted
  const double* whole_square;               // [U]: of the gradients of whole rows; null: all their columns are here
  RowUpdate update;
};

// Moments in bfloat16 are rounded by the random bits of (seed ^ kMomentStream), rows by those of seed. The two moments
// of a column share their bits: this changes the expected error of a step by 2^-18 of it at most.
constexpr uint64_t kMomentStream = 0x6d6f6d656e747321;

// Bias corrections by count, cached because powers are slow and counts repeat. Zeroed before the first call.
template <class Real>
struct RowBias {
  static constexpr int32_t kSize = 1024;
  int32_t count[kSize];
  Real rate[kSize];  // rate / (1 - b1^t)
  Real root[kSize];  // 1 / sqrt(1 - b2^t)
};

// Memory of one thread.
template <class Real>
struct RowWorkspace {
  Real* scratch;  // kRowScratch * (D + 64)
  RowBias<Real>* bias;
};
constexpr int64_t kRowScratch = 6;

// block_sums(context, u) gives what sum_row takes of that name. A null context: no sums are known.
using BlockSums = const void* (*)(const void* context, int64_t u);

template <class Real>
struct RowUpdateFunctions {
  // For rows first .. last-1.
  using OfRows = void(const RowUpdateArguments<Real>& a, int64_t first, int64_t last, BlockSums block_sums,
                      const void* context, const RowWorkspace<Real>& workspace);
  OfRows* update;
  OfRows* square_sums;  // writes a.square_sum alone
};

struct RowUpdateKernel {
  RowUpdateFunctions<float> float32;
  RowUpdateFunctions<double> float64;
};

namespace base {
extern const RowUpdateKernel row_update_kernel;
}
namespace avx2 {
extern const RowUpdateKernel row_update_kernel;
}
namespace avx512 {
extern const RowUpdateKernel row_update_kernel;
}

}  // namespace loci
