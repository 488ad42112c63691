// Legend: T tokens here, K reads of a token, A tokens of all ranks, D width, P ranks; E columns here.
#include "loci/distributed/column_exchange.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <numeric>

#include "loci/distributed/exchange_cost.h"

namespace loci {

using at::Tensor;

ColumnExchange::ColumnExchange(const Ranks& ranks, const std::vector<int64_t>& first, int64_t rows, const Tensor& index,
                               const Tensor& values)
    : ranks_(ranks), first_(first), reads_(index.size(1)) {
  const std::vector<int64_t> mine = {index.size(0), reads_};
  int64_t reads = reads_;
  bool known = index.size(0) > 0;
  for (const auto& from : swap_numbers(ranks_, std::vector(static_cast<size_t>(ranks_.size), mine))) {
    tokens_.push_back(from[0]);
    if (from[0] == 0) continue;
    if (!known) reads = from[1];
    known = true;
    TORCH_CHECK(from[1] == reads, "reads of a table in columns: every rank must read as many rows a token, got ", reads,
                " and ", from[1]);
  }
  const Tensor sent = index.size(0) > 0 ? index : index.new_empty({0, reads});
  const auto type = row_number_bytes(rows) == 4 ? at::kInt : at::kLong;
  Begun rows_come = begin_all_gather_rows(ranks_, sent.to(type), tokens_);
  Begun values_come =
      values.defined() ? begin_all_gather_rows(ranks_, values.reshape({index.size(0), reads}), tokens_) : Begun();
  index_ = rows_come.wait().to(at::kLong);
  if (values.defined()) came_along_ = values_come.wait();
}

std::vector<int64_t> ColumnExchange::to_tokens(int64_t columns) const {
  std::vector<int64_t> numbers;
  for (const int64_t tokens : tokens_) numbers.push_back(tokens * columns);
  return numbers;
}

std::vector<int64_t> ColumnExchange::of_columns() const {
  const auto rank = static_cast<size_t>(ranks_.rank);
  std::vector<int64_t> numbers;
  for (size_t p = 0; p < tokens_.size(); ++p) numbers.push_back(tokens_[rank] * (first_[p + 1] - first_[p]));
  return numbers;
}

Tensor ColumnExchange::send_reads(const Tensor& values) const {
  return all_gather_rows(ranks_, values.reshape({-1, index_.size(1)}), tokens_);
}

Tensor ColumnExchange::send_tokens(const Tensor& vectors) const {
  const auto rank = static_cast<size_t>(ranks_.rank);
  std::vector<Tensor> slices;
  for (size_t p = 0; p < tokens_.size(); ++p) {
    slices.push_back(vectors.narrow(1, first_[p], first_[p + 1] - first_[p]).reshape({-1}));
  }
  const int64_t here = first_[rank + 1] - first_[rank];
  return all_to_all(ranks_, at::cat(slices), of_columns(), to_tokens(here)).view({index_.size(0), here});
}

Tensor ColumnExchange::return_reads(const Tensor& values) const {
  const int64_t reads = index_.size(1), mine = tokens_[static_cast<size_t>(ranks_.rank)];
  const std::vector<int64_t> from(tokens_.size(), mine * reads);
  const Tensor came = all_to_all(ranks_, values.reshape({-1}), to_tokens(reads), from).view({ranks_.size, mine, reads});
  Tensor sum = came[0].clone();
  for (int64_t p = 1; p < ranks_.size; ++p) sum.add_(came[p]);
  return mine > 0 ? sum : values.new_empty({0, reads_});
}

Tensor ColumnExchange::return_sums(const Tensor& vectors) const {
  const auto rank = static_cast<size_t>(ranks_.rank);
  const int64_t here = first_[rank + 1] - first_[rank], mine = tokens_[rank];
  const std::vector<int64_t> from = of_columns();
  const Tensor came = all_to_all(ranks_, vectors.reshape({-1}), to_tokens(here), from);
  Tensor result = at::empty({mine, first_.back()}, vectors.options());
  int64_t at = 0;
  for (size_t p = 0; p < from.size(); at += from[p++]) {
    const int64_t columns = first_[p + 1] - first_[p];
    result.narrow(1, first_[p], columns).copy_(came.narrow(0, at, from[p]).view({mine, columns}));
  }
  return result;
}

}  // namespace loci
