#include "loci/table/usage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "loci/base/random.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using testing::ElementsAre;

// One head that reads one row a token.
void read(Usage& usage, const std::vector<int64_t>& rows, const std::vector<float>& weight, int64_t step) {
  usage.add(rows.data(), weight.data(), static_cast<int64_t>(rows.size()), 1, 1, step);
}
void read(Usage& usage, const std::vector<int64_t>& rows, int64_t step) {
  read(usage, rows, std::vector<float>(rows.size(), 1.0F), step);
}

struct Reads {
  std::vector<int64_t> index;
  std::vector<float> weight;
};
Reads random_reads(int64_t rows, int64_t count, uint64_t seed) {
  const CounterRandom random(seed, "usage_test");
  Reads reads;
  for (int64_t i = 0; i < count; ++i) {
    const double u = random.uniform(static_cast<uint64_t>(i));
    reads.index.push_back(static_cast<int64_t>(u * u * static_cast<double>(rows)));
    reads.weight.push_back(static_cast<float>(random.uniform(static_cast<uint64_t>(count + i))));
  }
  return reads;
}

void expect_same(const Usage& a, const Usage& b) {
  ASSERT_EQ(a.rows(), b.rows());
  EXPECT_EQ(std::memcmp(a.state().data(), b.state().data(), a.state().size_bytes()), 0);
}

std::vector<int64_t> field_of(const Usage& usage, int64_t RowUsage::* field) {
  std::vector<int64_t> result;
  for (const RowUsage& row : usage.state()) result.push_back(row.*field);
  return result;
}

TEST(Usage, EvenUseHasNoDivergence) {
  Usage usage(8);
  read(usage, {0, 1, 2, 3, 4, 5, 6, 7}, 3);
  const UsageMetrics m = usage.metrics();
  EXPECT_EQ(m.rows, 8);
  EXPECT_EQ(m.reads, 8);
  EXPECT_EQ(m.distinct_rows, 8);
  EXPECT_EQ(m.usage, 1);
  EXPECT_EQ(m.usage_at_1, 1);
  EXPECT_NEAR(m.kl, 0, 1e-15);
  EXPECT_NEAR(m.kl_reads, 0, 1e-15);
  EXPECT_NEAR(m.gini, 0, 1e-15);
  EXPECT_EQ(m.rows_50, 4);
  EXPECT_EQ(m.rows_90, 8);
  EXPECT_EQ(m.rows_99, 8);
  EXPECT_EQ(m.collision, 0);
  EXPECT_EQ(m.staleness_median, 0);
  EXPECT_EQ(m.never_touched, 0);
}

TEST(Usage, OneRowHasTheLargestDivergence) {
  Usage usage(8);
  read(usage, {5, 5, 5}, 0);
  const UsageMetrics m = usage.metrics();
  EXPECT_EQ(m.usage, 1.0 / 8);
  EXPECT_DOUBLE_EQ(m.kl, std::log(8));
  EXPECT_DOUBLE_EQ(m.kl_reads, std::log(8));
  EXPECT_DOUBLE_EQ(m.gini, 1 - 1.0 / 8);
  EXPECT_EQ(m.rows_50, 1);
  EXPECT_EQ(m.rows_99, 1);
  EXPECT_EQ(m.collision, 1);
  EXPECT_EQ(m.never_touched, 7.0 / 8);
}

TEST(Usage, TwoRowsByHand) {
  Usage usage(4);
  read(usage, {1, 3, 3, 3}, {1.0F, 1.0F, 1.0F, 1.0F}, 2);
  read(usage, {3}, {4.0F}, 4);
  const UsageMetrics m = usage.metrics();  // n = 0 1 0 4, z = 0 1/8 0 7/8
  EXPECT_EQ(m.reads, 5);
  EXPECT_EQ(m.usage, 0.5);
  EXPECT_DOUBLE_EQ(m.kl, std::log(4) + std::log(1.0 / 8) / 8 + 7 * std::log(7.0 / 8) / 8);
  EXPECT_DOUBLE_EQ(m.kl_reads, std::log(4) + 0.2 * std::log(0.2) + 0.8 * std::log(0.8));
  EXPECT_DOUBLE_EQ(m.gini, 1 + 1.0 / 4 - 2 * (1.0 / 8 + 1.0) / 4);
  EXPECT_EQ(m.rows_50, 1);
  EXPECT_EQ(m.rows_90, 2);
  EXPECT_EQ(m.collision, 0.8);
  EXPECT_EQ(m.staleness_median, 0);  // of 0 (row 3) and 2 (row 1)
  EXPECT_EQ(m.staleness_p90, 2);
  EXPECT_EQ(m.never_touched, 0.5);
}

TEST(Usage, TheHeaviestReadOfAHeadIsCountedAndTiesGoToTheEarlierRank) {
  Usage usage(10);
  const std::vector<int64_t> index = {0, 1, 2, 3, 4, 5, 6, 7, 8};  // one token, three heads of three reads
  const std::vector<float> weight = {0.2F, 0.5F, 0.3F, 0.4F, 0.2F, 0.4F, 0.0F, 0.0F, 0.0F};
  usage.add(index.data(), weight.data(), 1, 3, 3, 0);
  EXPECT_THAT(field_of(usage, &RowUsage::top_reads), ElementsAre(0, 1, 0, 1, 0, 0, 1, 0, 0, 0));
  EXPECT_EQ(usage.metrics().usage_at_1, 0.3);
  EXPECT_EQ(usage.metrics().usage, 0.9);
}

TEST(Usage, APercentileOfTheWeightMayEndOnARowExactly) {
  Usage usage(16);
  std::vector<int64_t> rows(10);
  std::iota(rows.begin(), rows.end(), 0);
  read(usage, rows, std::vector<float>(10, 0.1F), 0);  // ten times 0.1F / total: 0.9 is nine rows to rounding
  EXPECT_EQ(usage.metrics().rows_50, 5);
  EXPECT_EQ(usage.metrics().rows_90, 9);
  EXPECT_EQ(usage.metrics().rows_99, 10);
}

TEST(Usage, WithoutReadsNothingIsClaimed) {
  const UsageMetrics m = Usage(3).metrics();
  EXPECT_EQ(m.reads, 0);
  EXPECT_EQ(m.usage, 0);
  EXPECT_TRUE(std::isnan(m.kl));
  EXPECT_TRUE(std::isnan(m.kl_reads));
  EXPECT_TRUE(std::isnan(m.gini));
  EXPECT_TRUE(std::isnan(m.collision));
  EXPECT_EQ(m.never_touched, 1);
  Usage weightless(3);
  read(weightless, {1}, {0.0F}, 0);
  EXPECT_TRUE(std::isnan(weightless.metrics().kl));
  EXPECT_DOUBLE_EQ(weightless.metrics().kl_reads, std::log(3));
}

TEST(Usage, MergedPartsEqualTheWhole) {
  constexpr int64_t rows = 100, tokens = 60, heads = 2, top_k = 5, reads = heads * top_k;
  Reads all = random_reads(rows, tokens * reads, 1);
  for (float& weight : all.weight) weight = std::round(weight * 64) / 64;  // sums are exact in any order
  Usage whole(rows), first(rows), second(rows);
  whole.add(all.index.data(), all.weight.data(), 25, heads, top_k, 3);
  whole.add(all.index.data() + 25 * reads, all.weight.data() + 25 * reads, tokens - 25, heads, top_k, 9);
  first.add(all.index.data(), all.weight.data(), 25, heads, top_k, 3);
  second.add(all.index.data() + 25 * reads, all.weight.data() + 25 * reads, tokens - 25, heads, top_k, 9);
  Usage merged(rows);
  merged.merge(second);
  merged.merge(first);
  expect_same(merged, whole);
  EXPECT_EQ(merged.metrics().kl, whole.metrics().kl);
  EXPECT_EQ(merged.metrics().staleness_median, whole.metrics().staleness_median);
  EXPECT_EQ(merged.metrics().reads, tokens * reads);
}

TEST(Usage, CountsGoOnBeyond2To24) {
  Usage usage(4);
  usage.state()[0] = {int64_t{1} << 24, int64_t{1} << 24, static_cast<double>(int64_t{1} << 24), 0};
  read(usage, {0, 1}, 0);
  EXPECT_EQ(usage.state()[0].reads, (int64_t{1} << 24) + 1);
  EXPECT_EQ(usage.state()[0].top_reads, (int64_t{1} << 24) + 1);
  EXPECT_EQ(usage.state()[0].weight, static_cast<double>((int64_t{1} << 24) + 1));
  EXPECT_EQ(usage.metrics().reads, (int64_t{1} << 24) + 2);
}

// Read by read: the definition.
Usage counted_plainly(const Reads& all, int64_t rows, int64_t groups, int64_t top_k) {
  Usage plain(rows);
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = group * top_k;
    const auto begin = all.weight.begin() + first;
    plain.state()[all.index[first + (std::max_element(begin, begin + top_k) - begin)]].top_reads += 1;
    for (int64_t i = first; i < first + top_k; ++i) {
      RowUsage& row = plain.state()[all.index[i]];
      row = {row.reads + 1, row.top_reads, row.weight + static_cast<double>(all.weight[i]), 1};
    }
  }
  return plain;
}

TEST(Usage, CountsReadByRead) {
  struct Size {
    int64_t rows, tokens, heads, top_k;
  };
  for (const auto& [rows, tokens, heads, top_k] : std::vector<Size>{
           {150000, 1024, 4, 32}, {5, 700, 3, 9}, {100, 20000, 1, 1}, {3000, 31, 1, 700}, {64, 1, 4, 16}}) {
    SCOPED_TRACE(testing::Message() << rows << " rows, top " << top_k);
    const Reads all = random_reads(rows, tokens * heads * top_k, 2);
    Usage usage(rows);
    usage.add(all.index.data(), all.weight.data(), tokens, heads, top_k, 1);
    expect_same(usage, counted_plainly(all, rows, tokens * heads, top_k));
  }
}

TEST(Usage, ANewWindowKeepsTheDatesOfTouch) {
  Usage usage(4);
  read(usage, {0, 1}, 5);
  usage.reset_window();
  read(usage, {2}, 9);
  const UsageMetrics m = usage.metrics();
  EXPECT_EQ(m.reads, 1);
  EXPECT_EQ(m.distinct_rows, 1);
  EXPECT_EQ(m.staleness_median, 4);
  EXPECT_EQ(m.never_touched, 0.25);
  usage.clear();
  EXPECT_EQ(usage.metrics().never_touched, 1);
}

TEST(Usage, DeadRowsWereNotTouchedForSoManySteps) {
  Usage usage(4);
  read(usage, {0}, 10);
  read(usage, {1}, 15);
  read(usage, {2}, 20);
  EXPECT_THAT(usage.dead_rows(10, 20), ElementsAre(0, 3));
  EXPECT_THAT(usage.dead_rows(11, 20), ElementsAre(3));
  EXPECT_THAT(usage.dead_rows(5, 20), ElementsAre(0, 1, 3));
  usage.clear_rows(std::vector<int64_t>{2});
  EXPECT_THAT(usage.dead_rows(11, 20), ElementsAre(2, 3));
  EXPECT_EQ(usage.state()[2].reads, 0);
}

TEST(Usage, AnOlderBatchDoesNotDateARowBack) {
  Usage usage(2);
  read(usage, {0}, 7);
  read(usage, {0}, 3);
  EXPECT_THAT(field_of(usage, &RowUsage::last_touch), ElementsAre(7, -1));
}

TEST(Usage, BadCallsAreRefusedAndChangeNothing) {
  Usage usage(4);
  read(usage, {1}, 0);
  expect_error(ExitCode::bug, "Usage: index must be in [0, 4), got 4", [&] { read(usage, {0, 4}, 1); });
  expect_error(ExitCode::bug, "Usage: index must be in [0, 4), got -1", [&] { read(usage, {0, -1}, 1); });
  expect_error(ExitCode::bug, "step must be at least 0, got -1", [&] { read(usage, {0}, -1); });
  expect_error(ExitCode::bug, "rows must be 4, got 5", [&] { usage.merge(Usage(5)); });
  expect_error(ExitCode::bug, "rows must be at least 1, got 0", [] { Usage(0); });
  EXPECT_THAT(field_of(usage, &RowUsage::reads), ElementsAre(0, 1, 0, 0));
  usage.add(nullptr, nullptr, 0, 4, 32, 1);
  EXPECT_EQ(usage.metrics().reads, 1);
}

}  // namespace
}  // namespace loci
