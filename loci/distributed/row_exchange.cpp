// Legend: T tokens here, K reads of a token, D width, P ranks, S segments that came here, C the most reads in one.
#include "loci/distributed/row_exchange.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>

#include "loci/distributed/exchange_cost.h"
#include "loci/distributed/exchange_plan.h"

namespace loci {
namespace {

using at::Tensor;

std::span<const int64_t> numbers_of(const Tensor& dense) {
  return {dense.const_data_ptr<int64_t>(), static_cast<size_t>(dense.numel())};
}

// Whether the row numbers of every part travel in 4 bytes.
bool has_narrow_rows(const std::vector<int64_t>& first) {
  int64_t most = 0;
  for (size_t p = 1; p < first.size(); ++p) most = std::max(most, first[p] - first[p - 1]);
  return row_number_bytes(most) == 4;
}

// The rows of the reads in the order in which they are sent, each counted from the first of its rank.
template <typename Row>
Tensor rows_to_send(std::span<const int64_t> index, std::span<const int64_t> position,
                    const std::vector<int64_t>& reads_to, const std::vector<int64_t>& first) {
  Tensor rows = at::empty({static_cast<int64_t>(position.size())}, c10::CppTypeToScalarType<Row>::value);
  auto* out = rows.mutable_data_ptr<Row>();
  size_t read = 0;
  for (size_t p = 0; p < reads_to.size(); ++p) {
    for (const size_t end = read + static_cast<size_t>(reads_to[p]); read < end; ++read) {
      *out++ = static_cast<Row>(index[static_cast<size_t>(position[read])] - first[p]);
    }
  }
  return rows;
}

std::span<const int32_t> lengths_of(const Tensor& lengths) {
  return {lengths.const_data_ptr<int32_t>(), static_cast<size_t>(lengths.numel())};
}

// Between reads one after another [R] and segments [S, C]: calls copy(read, place, reads) for each segment.
template <typename Copy>
void for_segments(const Tensor& lengths, int64_t width, const Copy& copy) {
  int64_t read = 0, place = 0;
  for (const int32_t reads : lengths_of(lengths)) {
    copy(read, place, reads);
    read += reads;
    place += width;
  }
}

// Every segment's first read fills its places, then the reads take theirs.
template <typename Row>
Tensor index_of(const Tensor& rows, const Tensor& lengths, int64_t width) {
  Tensor index = at::empty({lengths.numel(), width}, at::kLong);
  const auto* in = rows.const_data_ptr<Row>();
  auto* out = index.mutable_data_ptr<int64_t>();
  for_segments(lengths, width, [&](int64_t read, int64_t place, int64_t reads) {
    std::fill(std::copy_n(in + read, reads, out + place), out + place + width, static_cast<int64_t>(in[read]));
  });
  return index;
}

}  // namespace

RowExchange::RowExchange(const Ranks& ranks, const std::vector<int64_t>& first, const Tensor& index,
                         const Tensor& values)
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

  const bool narrow = has_narrow_rows(first);
  const auto to_send = narrow ? rows_to_send<int32_t> : rows_to_send<int64_t>;
  Begun lengths_come = begin_all_to_all(ranks_, at::tensor(plan.segment_reads, at::kInt), segments_to_, segments_from_);
  Begun rows_come =
      begin_all_to_all(ranks_, to_send(numbers_of(dense), plan.position, reads_to_, first), reads_to_, reads_from_);
  Begun values_come = values.defined() ? begin_reads(values) : Begun();

  lengths_ = lengths_come.wait();
  const std::span<const int32_t> lengths = lengths_of(lengths_);
  const int64_t width = lengths.empty() ? 1 : std::ranges::max(lengths);  // C
  index_ = (narrow ? index_of<int32_t> : index_of<int64_t>)(rows_come.wait(), lengths_, width);
  if (values.defined()) came_along_ = in_segments(values_come.wait());
}

Begun RowExchange::begin_reads(const Tensor& values) const {
  return begin_all_to_all(ranks_, values.reshape({-1}).index_select(0, position_), reads_to_, reads_from_);
}

Tensor RowExchange::send_reads(const Tensor& values) const {
  return in_segments(begin_reads(values).wait());
}

Tensor RowExchange::in_segments(const Tensor& reads_that_came) const {
  Tensor result = at::zeros(index_.sizes(), reads_that_came.options());
  const int64_t bytes = result.element_size();
  const auto* in = static_cast<const std::byte*>(reads_that_came.const_data_ptr());
  auto* out = static_cast<std::byte*>(result.mutable_data_ptr());
  for_segments(lengths_, index_.size(1), [&](int64_t read, int64_t place, int64_t reads) {
    std::copy_n(in + read * bytes, reads * bytes, out + place * bytes);
  });
  return result;
}

Tensor RowExchange::send_tokens(const Tensor& vectors) const {
  return all_to_all(ranks_, vectors.index_select(0, segment_token_), segments_to_, segments_from_);
}

Tensor RowExchange::return_reads(const Tensor& values) const {
  const Tensor segments = values.contiguous();
  const Tensor sent =
      at::empty({std::accumulate(reads_from_.begin(), reads_from_.end(), int64_t{0})}, values.options());
  const int64_t bytes = sent.element_size();
  const auto* in = static_cast<const std::byte*>(segments.const_data_ptr());
  auto* out = static_cast<std::byte*>(sent.mutable_data_ptr());
  for_segments(lengths_, index_.size(1), [&](int64_t read, int64_t place, int64_t reads) {
    std::copy_n(in + place * bytes, reads * bytes, out + read * bytes);
  });
  const Tensor came = all_to_all(ranks_, sent, reads_from_, reads_to_);
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
