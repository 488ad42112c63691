// Legend: N rows, P ranks, B rows of a message.
#include "loci/table/usage_over_ranks.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kRowsOfMessage = int64_t{1} << 18;

RowUsage* row_usage(const Tensor& counters) {
  return static_cast<RowUsage*>(counters.mutable_data_ptr());
}

// counters [P, B, 3] of the same rows on each rank -> [B, 3].
Tensor sum_of_ranks(const Tensor& counters) {
  const int64_t ranks = counters.size(0), rows = counters.size(1);
  const Tensor result = at::zeros({rows, 3}, at::kInt);
  const RowUsage* const from = row_usage(counters);
  RowUsage* const to = row_usage(result);
  for (int64_t r = 0; r < rows; ++r) {
    RowUsage sum;
    int64_t reads = 0;
    double weight = 0;
    for (int64_t p = 0; p < ranks; ++p) {
      const RowUsage& row = from[p * rows + r];
      reads += row.reads();
      weight += static_cast<double>(row.weight);
      sum.counts |= row.counts & RowUsage::kHeaviest;
      sum.touched = std::max(sum.touched, row.touched);
    }
    sum.counts |= static_cast<uint32_t>(std::min<int64_t>(reads, RowUsage::kMostReads));
    sum.weight = static_cast<float>(weight);
    to[r] = sum;
  }
  return result;
}

// Rows first .. first + P * B - 1, of which each rank merges B: [P * B, 3].
Tensor merged_rows(const Usage& usage, int64_t first, int64_t each, const Ranks& ranks) {
  const Tensor mine = at::zeros({ranks.size * each, 3}, at::kInt);
  const int64_t count = std::min(ranks.size * each, usage.rows() - first);
  RowUsage* const to = row_usage(mine);
  for (int64_t i = 0; i < count; ++i) to[i] = usage.row(first + i);
  const std::vector<int64_t> parts(static_cast<size_t>(ranks.size), each);
  const Tensor came = all_to_all(ranks, mine, parts, parts);
  return all_gather(ranks, sum_of_ranks(came.view({ranks.size, each, 3}))).view({-1, 3});
}

}  // namespace

Usage merged(const Usage& usage, const Ranks& ranks) {
  if (ranks.size == 1) return usage.view();
  Usage result(usage.rows());
  result.begin_window(usage.window());
  RowUsage* const to = row_usage(result.state());
  const int64_t each = (std::min(kRowsOfMessage, usage.rows()) + ranks.size - 1) / ranks.size;
  for (int64_t first = 0; first < usage.rows(); first += ranks.size * each) {
    const Tensor rows = merged_rows(usage, first, each, ranks);
    const RowUsage* const from = row_usage(rows);
    const int64_t count = std::min(rows.size(0), usage.rows() - first);
    for (int64_t i = 0; i < count; ++i) {  // pages of rows that nobody read take no memory
      if (from[i].touched > 0) to[first + i] = from[i];
    }
  }
  return result;
}

void give_to_owners(Usage& usage, const RowRange& here, const Ranks& ranks) {
  if (ranks.size == 1) return;
  const Usage all = merged(usage, ranks);
  RowUsage* const rows = row_usage(usage.state());
  for (int64_t row = 0; row < usage.rows(); ++row) {
    const bool owned = row >= here.first && row < here.first + here.count;
    const RowUsage value = owned ? all.row(row) : RowUsage{};
    if (std::memcmp(rows + row, &value, sizeof(value)) != 0) rows[row] = value;
  }
}

}  // namespace loci
