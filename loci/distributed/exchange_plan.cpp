// Legend: T tokens, K reads of a token, M = T K reads, P ranks, G segments.
#include "loci/distributed/exchange_plan.h"

#include <algorithm>
#include <numeric>

namespace loci {
namespace {

// The rank that holds each read's row. Ranks without rows are passed over.
std::vector<int32_t> owners_of(std::span<const int64_t> index, std::span<const int64_t> first) {
  std::vector<int32_t> owner(index.size());
  std::ranges::transform(index, owner.begin(), [&](int64_t row) {
    return static_cast<int32_t>(std::ranges::upper_bound(first, row) - first.begin() - 1);
  });
  return owner;
}

}  // namespace

ExchangePlan plan_exchange(std::span<const int64_t> index, int64_t reads_a_token, std::span<const int64_t> first) {
  const size_t ranks = first.size() - 1;
  const std::vector<int32_t> owner = owners_of(index, first);
  ExchangePlan plan;
  plan.reads_to.assign(ranks, 0);
  for (const int32_t p : owner) ++plan.reads_to[static_cast<size_t>(p)];

  std::vector<int64_t> next(ranks);  // a counting sort keeps the order of tokens and reads
  std::exclusive_scan(plan.reads_to.begin(), plan.reads_to.end(), next.begin(), int64_t{0});
  plan.position.resize(index.size());
  for (size_t i = 0; i < index.size(); ++i) {
    plan.position[static_cast<size_t>(next[static_cast<size_t>(owner[i])]++)] = static_cast<int64_t>(i);
  }

  plan.segments_to.assign(ranks, 0);
  size_t read = 0;
  for (size_t p = 0; p < ranks; ++p) {
    int64_t token = -1;
    for (const size_t end = read + static_cast<size_t>(plan.reads_to[p]); read < end; ++read) {
      const int64_t of = plan.position[read] / reads_a_token;
      if (of != token) {
        token = of;
        plan.segment_token.push_back(token);
        plan.segment_reads.push_back(0);
        ++plan.segments_to[p];
      }
      ++plan.segment_reads.back();
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
