// Legend: K top_k.
#include <torch/library.h>

#include <algorithm>

#include "loci/ops/table_read/table_read_definition.h"
#include "loci/ops/usage_add/usage_add.h"
#include "loci/ops/usage_add/usage_add_definition.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kCountersAhead = 64;  // reads whose counters are prefetched

// The same code at every level: the time is that of fetching counters, and two reads of a vector may be of one row.
// On one thread: two that own a range of rows each would both look through all reads, and which thread owns a read
// cannot be predicted. They were quicker with 2^20 rows alone, when each listed its own reads first.
void usage_add_cpu(const Tensor& counters, const Tensor& index, const Tensor& weight, int64_t window, int64_t step) {
  check_usage_add(counters, index, weight, window, step);
  check_index_range("usage_add", counters, index);
  const Tensor indices = index.contiguous(), weights = weight.contiguous();
  const int64_t* const row_of = indices.const_data_ptr<int64_t>();
  const float* const weight_of = weights.const_data_ptr<float>();
  auto* const rows = static_cast<RowUsage*>(counters.mutable_data_ptr());
  const auto now = static_cast<int32_t>(step + 1);
  const int64_t count = indices.numel(), K = index.size(2);
  for (int64_t first = 0; first < count; first += K) {
    int64_t heaviest = first;
    for (int64_t i = first; i < first + K; ++i) {
      if (weight_of[i] > weight_of[heaviest]) heaviest = i;
      __builtin_prefetch(rows + row_of[std::min(i + kCountersAhead, count - 1)], /*write=*/1);
      RowUsage& row = rows[row_of[i]];
      if (row.touched <= window) row = {};
      row.counts += (row.counts & RowUsage::kMostReads) != RowUsage::kMostReads;
      row.weight += weight_of[i];
      row.touched = now;
    }
    rows[row_of[heaviest]].counts |= RowUsage::kHeaviest;
  }
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("usage_add_", usage_add_cpu);
}

}  // namespace
}  // namespace loci
