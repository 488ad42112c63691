// What watches the reads of a memory: counters, backgrounds, windows for re-initialisation. A layer is given its
// observers; a layer without observers counts nothing and holds nothing.
//
// Legend: T tokens, H heads, K top_k, D width of a row, w width of half a query, n2 sub-keys of the second half.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

// T: the tokens whose mask is true.
struct MemoryReads {
  at::Tensor output;  // [T, D] before the output map
  at::Tensor score;   // [T, H, K]
  at::Tensor index;   // [T, H, K] rows
  at::Tensor weight;  // [T, H, K]
  // Of memories that search, undefined for others:
  at::Tensor address = {};  // [T, H, K] what the search found: i * n2 + j of a pair of sub-keys
  at::Tensor query = {};    // [T, H, 2, w] as it was searched with
};

class ReadObserver {
 public:
  virtual ~ReadObserver() = default;
  // Called after each forward pass, in training and in evaluation, with tensors detached from the graph. The passes
  // that a backward pass runs again (activation checkpointing) are not told.
  virtual void reads(const MemoryReads& reads) = 0;
};

}  // namespace loci
