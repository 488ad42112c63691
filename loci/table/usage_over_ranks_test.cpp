// Legend: T tokens, K reads of a token, N rows, P ranks.
#include "loci/table/usage_over_ranks.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "tests/ranks.h"
#include "tests/sharded_rows.h"

namespace loci::usage_over_ranks_test {
namespace {

using at::Tensor;

constexpr int64_t kTokens = 17, kReads = 4;

struct StepReads {
  Tensor index, weight;  // [T, 1, K]
};

// Weights are multiples of 1/64, so that their sums are exact in any order.
StepReads reads_of(int64_t rows, int64_t step) {
  torch::manual_seed(static_cast<uint64_t>(step));
  const Tensor index =
      (torch::rand({kTokens, 1, kReads}, at::kDouble).square() * static_cast<double>(rows)).to(at::kLong);
  return {index, torch::randint(0, 65, {kTokens, 1, kReads}).to(at::kFloat) / 64};
}

// Steps from .. to - 1, of which every fifth begins a window. `part` takes the tokens that `usage` sees.
template <class Part>
void count(Usage& usage, const std::vector<StepReads>& steps, int64_t from, int64_t to, const Part& part) {
  for (int64_t step = from; step < to; ++step) {
    if (step % 5 == 0) usage.begin_window(step);
    usage.set_step(step);
    const StepReads& reads = steps[static_cast<size_t>(step)];
    usage.reads({{}, {}, part(reads.index), part(reads.weight)});
  }
}

bool same(const RowUsage& a, const RowUsage& b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

void expect_same_rows(const Usage& got, const Usage& expected) {
  int64_t different = 0;
  for (int64_t row = 0; row < expected.rows(); ++row) different += !same(got.row(row), expected.row(row));
  EXPECT_EQ(different, 0);
  EXPECT_EQ(got.window(), expected.window());
}

struct Case {
  int64_t ranks, rows;
  bool idle;
};

class UsageOverRanks : public testing::TestWithParam<Case> {};

TEST_P(UsageOverRanks, MergedCountersAreThoseOfOneProcess) {
  const auto [size, rows, idle] = GetParam();
  std::vector<StepReads> steps;
  for (int64_t step = 0; step < 14; ++step) steps.push_back(reads_of(rows, step));
  Usage early(rows), all(rows);
  count(early, steps, 0, 12, [](const Tensor& t) { return t; });
  count(all, steps, 0, 14, [](const Tensor& t) { return t; });
  run_ranks(size, [&, rows = rows, idle = idle](const Ranks& ranks) {
    const auto mine = [&](const Tensor& t) { return slice(t, ranks, idle); };
    Usage usage(rows);
    expect_same_rows(merged(usage, ranks), Usage(rows));  // nobody has counted
    count(usage, steps, 0, 12, mine);
    expect_same_rows(merged(usage, ranks), early);
    EXPECT_EQ(merged(usage, ranks).count_since(7), early.count_since(7));

    const RowRange here = ShardedTable::equal_part(rows, ranks);
    give_to_owners(usage, here, ranks);
    expect_same_rows(merged(usage, ranks), early);
    if (ranks.size > 1) {
      for (int64_t row = 0; row < rows; ++row) {
        const bool owned = row >= here.first && row < here.first + here.count;
        ASSERT_TRUE(same(usage.all()[static_cast<size_t>(row)], owned ? early.row(row) : RowUsage{})) << row;
      }
    }
    count(usage, steps, 12, 14, mine);
    expect_same_rows(merged(usage, ranks), all);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, UsageOverRanks,
                         testing::Values(Case{1, 40, false}, Case{2, 40, false}, Case{3, 41, true}, Case{4, 41, false},
                                         Case{4, 2, false}, Case{3, 600'000, false}),  // more rows than a message has
                         [](const auto& info) {
                           return std::to_string(info.param.ranks) + "_" + std::to_string(info.param.rows) +
                                  (info.param.idle ? "_idle" : "");
                         });

TEST(UsageOverRanks, AllRanksHaveTheSameBitsOfAnyWeights) {
  torch::manual_seed(1);
  const Tensor index = torch::randint(0, 50, {200, 1, kReads}), weight = torch::rand({200, 1, kReads});
  std::vector<std::vector<RowUsage>> rows(3);
  run_ranks(3, [&](const Ranks& ranks) {
    Usage usage(50);
    usage.reads({{}, {}, slice(index, ranks), slice(weight, ranks)});
    const Usage all = merged(usage, ranks);
    rows[static_cast<size_t>(ranks.rank)].assign(all.all().begin(), all.all().end());
  });
  for (const auto& of_rank : rows) {
    EXPECT_TRUE(std::equal(of_rank.begin(), of_rank.end(), rows[0].begin(), rows[0].end(), same));
  }
}

TEST(UsageOverRanks, ReadsStopAtTheirMost) {
  run_ranks(2, [](const Ranks& ranks) {
    Usage usage(1);
    *static_cast<RowUsage*>(usage.state().mutable_data_ptr()) = {
        (RowUsage::kMostReads - 3) | (ranks.rank == 1 ? RowUsage::kHeaviest : 0), 0.5F, 1};
    const RowUsage row = merged(usage, ranks).row(0);
    EXPECT_EQ(row.reads(), RowUsage::kMostReads);
    EXPECT_TRUE(row.heaviest());
    EXPECT_EQ(row.weight, 1);
  });
}

}  // namespace
}  // namespace loci::usage_over_ranks_test
