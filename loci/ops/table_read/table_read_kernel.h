// Weighted sums of rows and inner products with rows, on raw pointers (contracts: table_read.h, table_project.h).
// Legend: T tokens, K reads of a token, N rows, D width, b bytes of a stored number.
//
// Estimate, either direction: T K D b bytes of rows in pieces of D b from anywhere, T D 4 of the other operand and
// T K 12 of indices and weights; 2 T K D flops, 1/2 flop per byte of a float32 table. So the bound is the speed of
// random access: rows come four at a time, while those of the next positions are fetched line by line in between (one
// huge page holds a thousand rows, so that a row costs no walk of the page table).
#pragma once

#include <stdint.h>

namespace loci {

struct TableReadArguments {
  const void* table;     // [N, D]
  const float* scale;    // [N], int8 rows alone
  int64_t rows;          // N
  int64_t row_stride;    // elements between two rows
  int64_t width;         // D
  const int64_t* index;  // [T, K]
  int64_t tokens;        // T
  int64_t reads;         // K
  const void* factor;    // read: weight [T, K]; project: x [T, D]
  void* out;             // read: [T, D]; project: [T, K]
};

// Tokens first .. last-1. Weights, vectors and sums are float32; float64 for a float64 table. Returns the position of
// an index outside 0 .. N-1, at which it stopped, or -1.
using TableReadFunction = int64_t (*)(const TableReadArguments& a, int64_t first, int64_t last);

struct TableReadKernel {
  struct OfRows {
    TableReadFunction read, project;
  };
  OfRows float64, float32, bfloat16, float16, int8;
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
