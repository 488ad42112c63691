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

template <class Real>
struct RowSumFunctions {
  // Sums references begin .. end-1 in sequence into sum [D].
  void (*sum_references)(const RowSumArguments<Real>& a, int64_t begin, int64_t end, Real* sum);
  // Sums all references of row u, in blocks. `block_sums` [blocks, D] holds the sums of the blocks if they are known
  // already, else it is null. `block` is scratch [D].
  void (*sum_row)(const RowSumArguments<Real>& a, int64_t u, const Real* block_sums, Real* sum, Real* block);
};

struct RowSumKernel {
  RowSumFunctions<float> float32;
  RowSumFunctions<double> float64;
};

namespace base {
extern const RowSumKernel row_sum_kernel;
}
namespace avx2 {
extern const RowSumKernel row_sum_kernel;
}
namespace avx512 {
extern const RowSumKernel row_sum_kernel;
}

}  // namespace loci
