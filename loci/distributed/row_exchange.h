// One pass of reads of a table whose rows are on several ranks, each whole on one.
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
#include "loci/distributed/read_exchange.h"

namespace loci {

class RowExchange : public ReadExchange {
 public:
  // index [T, K]: rows of the whole table. first [P + 1]: rank p has the rows from first[p] up to first[p + 1].
  // values [T, K], where there are any: see came_along().
  RowExchange(const Ranks& ranks, const std::vector<int64_t>& first, const at::Tensor& index,
              const at::Tensor& values = {});

  // [S, C] int64: rows that are read here, counted from first[rank]. A segment of fewer reads repeats its first.
  const at::Tensor& index() const override { return index_; }

  // [T, K] -> [S, C], 0 where a segment has fewer reads
  at::Tensor send_reads(const at::Tensor& values) const override;
  at::Tensor send_tokens(const at::Tensor& vectors) const override;  // [T, D] -> [S, D], that of the segment's token
  at::Tensor return_reads(const at::Tensor& values) const override;  // [S, C] -> [T, K]
  at::Tensor return_sums(const at::Tensor& vectors) const override;  // [S, D] -> [T, D], summed over ranks in order

 private:
  Begun begin_reads(const at::Tensor& values) const;
  at::Tensor in_segments(const at::Tensor& reads) const;  // [R] as they came -> [S, C]

  Ranks ranks_;
  int64_t tokens_, reads_;  // T, K
  std::vector<int64_t> reads_to_, reads_from_, segments_to_, segments_from_;
  at::Tensor position_;       // [T K]: of reads in [T, K], in the order in which they are sent
  at::Tensor segment_token_;  // of the segments that are sent
  at::Tensor lengths_;        // [S] int32: reads of the segments that came
  at::Tensor index_;
};

}  // namespace loci
