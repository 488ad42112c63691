// Weighted sums of rows and their weights' gradients, on raw pointers (contract: table_read.h).
// Legend: T tokens, K reads of a token, N rows, D width.
#pragma once

#include <stdint.h>

namespace loci {

struct TableReadArguments {
  const void* table;     // [N, D]
  int64_t row_stride;    // elements between two rows
  int64_t width;         // D
  const int64_t* index;  // [T, K], within 0 .. N-1
  int64_t tokens;        // T
  int64_t reads;         // K
  const void* factor;    // read: weight [T, K]; backward: grad [T, D]
  void* out;             // read: [T, D]; backward: [T, K]
};

// Tokens first .. last-1. Weights, gradients and sums are float32; float64 for a float64 table.
using TableReadFunction = void (*)(const TableReadArguments& a, int64_t first, int64_t last);

struct TableReadKernel {
  struct OfRows {
    TableReadFunction read, backward_weight;
  };
  OfRows float64, float32, bfloat16, float16;
};

namespace base {
extern const TableReadKernel table_read_kernel;
}
namespace avx2 {
extern const TableReadKernel table_read_kernel;
}
namespace avx512 {
extern const TableReadKernel table_read_kernel;
}

}  // namespace loci
