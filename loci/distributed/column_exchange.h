// One pass of reads of a table that is in parts by columns: every rank has some columns of all rows.
//
// Legend: T tokens here, K reads of a token, A tokens of all ranks, D width, P ranks; E columns here.
//
// Tokens come in the order of ranks, so that references have the order that one process with all tokens gives them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loci/distributed/collectives.h"
#include "loci/distributed/read_exchange.h"

namespace loci {

class ColumnExchange : public ReadExchange {
 public:
  // index [T, K]: rows of a table of `rows`. first [P + 1]: rank p has the columns from first[p] up to first[p + 1].
  // values [T, K], where there are any: see came_along(). Throws c10::Error, on all ranks, when ranks with tokens have
  // different K.
  ColumnExchange(const Ranks& ranks, const std::vector<int64_t>& first, int64_t rows, const at::Tensor& index,
                 const at::Tensor& values = {});

  const at::Tensor& index() const override { return index_; }        // [A, K]
  at::Tensor send_reads(const at::Tensor& values) const override;    // [T, K] -> [A, K]
  at::Tensor send_tokens(const at::Tensor& vectors) const override;  // [T, D] -> [A, E], the columns here
  at::Tensor return_reads(const at::Tensor& values) const override;  // [A, K] -> [T, K], summed over ranks
  at::Tensor return_sums(const at::Tensor& vectors) const override;  // [A, E] -> [T, D]

 private:
  // Numbers that all tokens have for each of these columns.
  std::vector<int64_t> to_tokens(int64_t columns) const;  // [P], tokens of each rank
  std::vector<int64_t> of_columns() const;                // [P], tokens here, columns of each rank

  Ranks ranks_;
  std::vector<int64_t> first_, tokens_;  // [P + 1], [P]
  int64_t reads_;                        // K of the tokens here
  at::Tensor index_;
};

}  // namespace loci
