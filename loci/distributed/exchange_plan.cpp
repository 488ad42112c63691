// Legend: T tokens, K reads of a token, M = T K reads, P ranks, G segments.
#include "loci/distributed/exchange_plan.h"

#include <algorithm>
#include <numeric>

namespace loci {
namespace {

// The rank that holds a row: how many ranks begin at it or before, less one. Ranks without rows are passed over.
int32_t owner_of(int64_t row, std::span<const int64_t> first) {
  constexpr size_t kFew = 17;
  if (first.size() > kFew) return static_cast<int32_t>(std::ranges::upper_bound(first, row) - first.begin() - 1);
  int32_t owner = 0;  // without branches, for the owners of neighbours are random
  for (size_t p = 1; p + 1 < first.size(); ++p) owner += row >= first[p] ? 1 : 0;
  return owner;
}

std::vector<int64_t> begins_of(const std::vector<int64_t>& counts) {
  std::vector<int64_t> begin(counts.size());
  std::exclusive_scan(counts.begin(), counts.end(), begin.begin(), int64_t{0});
  return begin;
}

}  // namespace

// A counting sort, which keeps the order of tokens and reads: counts, then places.
ExchangePlan plan_exchange(std::span<const int64_t> index, int64_t reads_a_token, std::span<const int64_t> first) {
  const size_t ranks = first.size() - 1, reads = static_cast<size_t>(reads_a_token);
  const size_t tokens = index.empty() ? 0 : index.size() / reads;
  ExchangePlan plan;
  plan.reads_to.assign(ranks, 0);
  plan.segments_to.assign(ranks, 0);
  std::vector<int32_t> owner(index.size());
  std::vector<size_t> last(ranks, tokens);  // the token of each rank's last read
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t i = t * reads; i < (t + 1) * reads; ++i) {
      owner[i] = owner_of(index[i], first);
      const auto p = static_cast<size_t>(owner[i]);
      ++plan.reads_to[p];
      plan.segments_to[p] += last[p] != t ? 1 : 0;
      last[p] = t;
    }
  }

  std::vector<int64_t> next_read = begins_of(plan.reads_to), next_segment = begins_of(plan.segments_to);
  const auto segments =
      static_cast<size_t>(std::accumulate(plan.segments_to.begin(), plan.segments_to.end(), int64_t{0}));
  plan.position.resize(index.size());
  plan.segment_token.resize(segments);
  plan.segment_reads.assign(segments, 0);
  last.assign(ranks, tokens);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t i = t * reads; i < (t + 1) * reads; ++i) {
      const auto p = static_cast<size_t>(owner[i]);
      plan.position[static_cast<size_t>(next_read[p]++)] = static_cast<int64_t>(i);
      next_segment[p] += last[p] != t ? 1 : 0;
      last[p] = t;
      const auto segment = static_cast<size_t>(next_segment[p] - 1);
      plan.segment_token[segment] = static_cast<int64_t>(t);
      ++plan.segment_reads[segment];
    }
  }
  return plan;
}

std::vector<int64_t> equal_parts(int64_t rows, int64_t ranks) {
  std::vector<int64_t> first(static_cast<size_t>(ranks) + 1, 0);
  for (int64_t p = 0; p < ranks; ++p) {
    first[static_cast<size_t>(p) + 1] = first[static_cast<size_t>(p)] + rows / ranks + (p < rows % ranks ? 1 : 0);
  }
  return first;
}

}  // namespace loci
