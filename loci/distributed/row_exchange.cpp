// Legend: T tokens here, K reads of a token, D width, P ranks, S segments that came here, C the most reads in one.
#include "loci/distributed/row_exchange.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <span>

#include "loci/distributed/exchange_plan.h"

namespace loci {
namespace {

using at::Tensor;

std::span<const int64_t> numbers_of(const Tensor& dense) {
  return {dense.const_data_ptr<int64_t>(), static_cast<size_t>(dense.numel())};
}

// Row numbers of a part travel in 4 bytes where all parts allow it.
at::ScalarType type_of_rows(const std::vector<int64_t>& first) {
  int64_t most = 0;
  for (size_t p = 1; p < first.size(); ++p) most = std::max(most, first[p] - first[p - 1]);
  return most <= std::numeric_limits<int32_t>::max() ? at::kInt : at::kLong;
}

// The place of every read that came in [S, C].
Tensor slots_of(std::span<const int32_t> segment_reads, int64_t width) {
  int64_t reads = 0;
  for (const int32_t n : segment_reads) reads += n;
  Tensor slot = at::empty({reads}, at::kLong);
  auto* out = slot.mutable_data_ptr<int64_t>();
  for (size_t s = 0; s < segment_reads.size(); ++s) {
    for (int64_t r = 0; r < segment_reads[s]; ++r) *out++ = static_cast<int64_t>(s) * width + r;
  }
  return slot;
}

// Every segment's first read fills its places, then the reads take theirs.
Tensor index_of(const Tensor& rows, const Tensor& slot, std::span<const int32_t> segment_reads, int64_t width) {
  Tensor index = at::empty({static_cast<int64_t>(segment_reads.size()), width}, at::kLong);
  const std::span<const int64_t> row = numbers_of(rows);
  auto* out = index.mutable_data_ptr<int64_t>();
  size_t read = 0;
  for (const int32_t n : segment_reads) {
    out = std::fill_n(out, width, row[read]);
    read += static_cast<size_t>(n);
  }
  index.view(-1).index_copy_(0, slot, rows);
  return index;
}

}  // namespace

RowExchange::RowExchange(const Ranks& ranks, const std::vector<int64_t>& first, const Tensor& index)
    : ranks_(ranks), tokens_(index.size(0)), reads_(index.size(1)) {
  const Tensor dense = index.contiguous();
  const ExchangePlan plan = plan_exchange(numbers_of(dense), reads_, first);
  reads_to_ = plan.reads_to;
  segments_to_ = plan.segments_to;
  position_ = at::tensor(plan.position, at::kLong);
  segment_token_ = at::tensor(plan.segment_token, at::kLong);

  std::vector<std::vector<int64_t>> counts;
  for (size_t p = 0; p < reads_to_.size(); ++p) counts.push_back({reads_to_[p], segments_to_[p]});
  for (const auto& from : swap_numbers(ranks_, counts)) {
    reads_from_.push_back(from[0]);
    segments_from_.push_back(from[1]);
  }

  const Tensor lengths = all_to_all(ranks_, at::tensor(plan.segment_reads, at::kInt), segments_to_, segments_from_);
  const std::span<const int32_t> segment_reads(lengths.const_data_ptr<int32_t>(), static_cast<size_t>(lengths.numel()));
  const int64_t width = segment_reads.empty() ? 1 : std::ranges::max(segment_reads);  // C
  slot_ = slots_of(segment_reads, width);

  Tensor rows = dense.view(-1).index_select(0, position_);
  for (size_t p = 0, at = 0; p < reads_to_.size(); at += static_cast<size_t>(reads_to_[p++])) {
    rows.narrow(0, static_cast<int64_t>(at), reads_to_[p]).sub_(first[p]);
  }
  const Tensor came = all_to_all(ranks_, rows.to(type_of_rows(first)), reads_to_, reads_from_).to(at::kLong);
  index_ = index_of(came, slot_, segment_reads, width);
}

Tensor RowExchange::send_reads(const Tensor& values) const {
  const Tensor sent = values.reshape({-1}).index_select(0, position_);
  const Tensor came = all_to_all(ranks_, sent, reads_to_, reads_from_);
  Tensor result = at::zeros(index_.sizes(), values.options());
  result.view(-1).index_copy_(0, slot_, came);
  return result;
}

Tensor RowExchange::send_tokens(const Tensor& vectors) const {
  return all_to_all(ranks_, vectors.index_select(0, segment_token_), segments_to_, segments_from_);
}

Tensor RowExchange::return_reads(const Tensor& values) const {
  const Tensor came = all_to_all(ranks_, values.reshape({-1}).index_select(0, slot_), reads_from_, reads_to_);
  Tensor result = at::empty({tokens_, reads_}, values.options());
  result.view(-1).index_copy_(0, position_, came);
  return result;
}

Tensor RowExchange::return_sums(const Tensor& vectors) const {
  const Tensor came = all_to_all(ranks_, vectors, segments_from_, segments_to_);
  Tensor result = at::zeros({tokens_, vectors.size(1)}, vectors.options());
  int64_t at = 0;
  for (const int64_t segments : segments_to_) {  // a token has one segment of a rank, so the order of sums is fixed
    result.index_add_(0, segment_token_.narrow(0, at, segments), came.narrow(0, at, segments));
    at += segments;
  }
  return result;
}

}  // namespace loci
