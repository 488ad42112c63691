// One pass of reads of a table whose rows are on several ranks: what goes to the ranks that hold the rows, and what
// comes back. All ranks make it and call its functions together, in the same order.
//
// Legend: T tokens here, K reads of a token, D width, P ranks; S segments that came here, pairs of a token of some rank
// and this rank with at least one read; C the most reads in one of them.
//
// Segments are ordered by the rank of their token, then by the token, and the reads in them by their number. So the
// references that they leave have the order that one process with all tokens would give them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loci/distributed/collectives.h"

namespace loci {

class RowExchange {
 public:
  // index [T, K]: rows of the whole table. first [P + 1]: rank p has the rows from first[p] up to first[p + 1].
  RowExchange(const Ranks& ranks, const std::vector<int64_t>& first, const at::Tensor& index);

  // [S, C] int64: rows that are read here, counted from first[rank]. A segment of fewer reads repeats its first.
  const at::Tensor& index() const { return index_; }

  at::Tensor send_reads(const at::Tensor& values) const;    // [T, K] -> [S, C], 0 where a segment has fewer reads
  at::Tensor send_tokens(const at::Tensor& vectors) const;  // [T, D] -> [S, D], that of the segment's token
  at::Tensor return_reads(const at::Tensor& values) const;  // [S, C] -> [T, K]
  at::Tensor return_sums(const at::Tensor& vectors) const;  // [S, D] -> [T, D], summed over ranks in their order

 private:
  Ranks ranks_;
  int64_t tokens_, reads_;  // T, K
  std::vector<int64_t> reads_to_, reads_from_, segments_to_, segments_from_;
  at::Tensor position_;       // [T K]: of reads in [T, K], in the order in which they are sent
  at::Tensor segment_token_;  // of the segments that are sent
  at::Tensor slot_;           // of reads that came, in [S, C]
  at::Tensor index_;
};

}  // namespace loci
