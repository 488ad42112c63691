// Counting the reads of rows, in place: how often each row was read, how heavily, and when last.
//
// Legend: T tokens, H heads, K top_k, N rows.
//
//   usage_add(counters [N, 3], index [T, H, K], weight [T, H, K], window, step):
//     for every token and head, in order:
//       for every read r in order, with row = counters[index[r]]:
//         if row.touched <= window: row = 0             (it was last read before the window)
//         row.reads = min(row.reads + 1, 2^31 - 1)
//         row.weight += weight[r]
//         row.touched = step + 1
//       counters[index[the heaviest r]].heaviest = true (the first of equals; NaN is never heavier than another weight)
//
// counters: contiguous int32, a RowUsage each; index: int64; weight: float32; 0 <= window <= step < 2^31 - 1. An index
// outside 0 .. N-1 throws and leaves the counters as they were. On CPU always the same bits: reads are counted on one
// thread, by the same code at every level. On other devices the sum of weights may be rounded in another order.
//
// The operator usage_add_ counts as a write to the counters. It has no gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace loci {

// The counters of a row, so that a read touches one or two cache lines. Zero bytes: never touched.
struct RowUsage {
  static constexpr uint32_t kMostReads = 0x7fff'ffff;  // more are not counted
  static constexpr uint32_t kHeaviest = 0x8000'0000;

  uint32_t counts = 0;  // reads, and in the highest bit whether one was the heaviest of a (token, head)
  float weight = 0;     // summed in float32: it grows up to 2^24 times a read's weight
  int32_t touched = 0;  // step of the last read + 1; 0: never

  int64_t reads() const { return counts & kMostReads; }
  bool heaviest() const { return (counts & kHeaviest) != 0; }
};
static_assert(sizeof(RowUsage) == 12);

void usage_add(const at::Tensor& counters, const at::Tensor& index, const at::Tensor& weight, int64_t window,
               int64_t step);

}  // namespace loci
