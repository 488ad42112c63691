#include "loci/table/usage.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "loci/base/random.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using testing::ElementsAre;

// index and weight [T, H, K]
void add(Usage& usage, const std::vector<int64_t>& index, const std::vector<float>& weight, int64_t tokens,
         int64_t heads, int64_t top_k) {
  const auto count = static_cast<size_t>(tokens * heads * top_k);
  ASSERT_TRUE(index.size() >= count && weight.size() >= count);
  const std::vector<int64_t> sizes = {tokens, heads, top_k};
  usage.reads({.output = {},
               .score = {},
               .index = at::from_blob(const_cast<int64_t*>(index.data()), sizes, at::kLong),
               .weight = at::from_blob(const_cast<float*>(weight.data()), sizes, at::kFloat)});
}
// One head that reads one row a token.
void read(Usage& usage, const std::vector<int64_t>& rows, const std::vector<float>& weight, int64_t step) {
  usage.set_step(step);
  add(usage, rows, weight, static_cast<int64_t>(rows.size()), 1, 1);
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

std::vector<int64_t> reads_of(const Usage& usage) {
  std::vector<int64_t> result;
  for (int64_t row = 0; row < usage.rows(); ++row) result.push_back(usage.row(row).reads());
  return result;
}

void set_row(Usage& usage, int64_t row, const RowUsage& value) {
  static_cast<RowUsage*>(usage.state().mutable_data_ptr())[row] = value;
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
  add(usage, index, weight, 1, 3, 3);
  for (int64_t row = 0; row < 10; ++row) EXPECT_EQ(usage.row(row).heaviest(), row == 1 || row == 3 || row == 6) << row;
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

TEST(Usage, CountsGoOnBeyond2To24AndEndAtTheLargest) {
  Usage usage(4);
  set_row(usage, 0, {.counts = (1u << 24) | RowUsage::kHeaviest, .weight = 1, .touched = 1});
  set_row(usage, 1, {.counts = RowUsage::kMostReads - 1, .weight = 1, .touched = 1});
  read(usage, {0, 1, 1, 1}, 0);
  EXPECT_EQ(usage.row(0).reads(), (int64_t{1} << 24) + 1);
  EXPECT_EQ(usage.row(1).reads(), RowUsage::kMostReads);
  EXPECT_TRUE(usage.row(1).heaviest());
  EXPECT_EQ(usage.row(0).weight, 2);
  EXPECT_EQ(usage.metrics().reads, (int64_t{1} << 24) + 1 + RowUsage::kMostReads);
}

// Read by read: the definition.
std::vector<RowUsage> counted_plainly(const Reads& all, int64_t rows, int64_t groups, int64_t top_k) {
  std::vector<RowUsage> plain(static_cast<size_t>(rows));
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = group * top_k;
    const auto begin = all.weight.begin() + first;
    plain[all.index[first + (std::max_element(begin, begin + top_k) - begin)]].counts |= RowUsage::kHeaviest;
    for (int64_t i = first; i < first + top_k; ++i) {
      RowUsage& row = plain[all.index[i]];
      row = {row.counts + 1, row.weight + all.weight[i], 2};
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
    usage.set_step(1);
    add(usage, all.index, all.weight, tokens, heads, top_k);
    const std::vector<RowUsage> plain = counted_plainly(all, rows, tokens * heads, top_k);
    EXPECT_EQ(std::memcmp(usage.state().const_data_ptr(), plain.data(), plain.size() * sizeof(RowUsage)), 0);
  }
}

TEST(Usage, ANewWindowKeepsTheDatesOfTouch) {
  Usage usage(4);
  read(usage, {0, 1}, 5);
  usage.begin_window(6);
  read(usage, {1, 2}, 9);
  read(usage, {2}, 10);
  EXPECT_THAT(reads_of(usage), ElementsAre(0, 1, 2, 0));
  EXPECT_EQ(usage.row(0).touched, 6);
  const UsageMetrics m = usage.metrics();
  EXPECT_EQ(m.reads, 3);
  EXPECT_EQ(m.distinct_rows, 2);
  EXPECT_EQ(m.staleness_median, 1);
  EXPECT_EQ(m.staleness_p90, 5);
  EXPECT_EQ(m.never_touched, 0.25);
  usage.clear();
  EXPECT_EQ(usage.metrics().never_touched, 1);
}

TEST(Usage, ReadsBeforeTheWindowLeaveNothingButTheirDate) {
  Usage usage(3);
  usage.begin_window(7);
  read(usage, {0, 0, 1}, 5);
  EXPECT_THAT(reads_of(usage), ElementsAre(0, 0, 0));
  EXPECT_EQ(usage.row(0).touched, 6);
  EXPECT_EQ(usage.metrics().reads, 0);
  read(usage, {1, 2}, 7);
  EXPECT_THAT(reads_of(usage), ElementsAre(0, 1, 1));
  EXPECT_NEAR(usage.metrics().never_touched, 0, 1e-15);
}

TEST(Usage, CountsOnAfterReadsInInferenceMode) {
  Usage usage(3);
  {
    const c10::InferenceMode inference;
    read(usage, {0}, 0);
  }
  read(usage, {0, 2}, 1);
  EXPECT_THAT(reads_of(usage), ElementsAre(2, 0, 1));
}

TEST(Usage, UsageAndKlInOnePassAreThoseOfTheMetrics) {
  Usage usage(3000);
  EXPECT_EQ(usage.usage_and_kl().first, 0);
  EXPECT_TRUE(std::isnan(usage.usage_and_kl().second));
  const Reads all = random_reads(3000, 20000, 3);
  add(usage, all.index, all.weight, 5000, 2, 2);
  usage.begin_window(1);
  usage.set_step(1);
  add(usage, all.index, all.weight, 500, 2, 2);
  EXPECT_EQ(usage.usage_and_kl().first, usage.metrics().usage);
  EXPECT_NEAR(usage.usage_and_kl().second, usage.metrics().kl, 1e-12);
}

TEST(Usage, NamesTheRowsTouchedSinceAStep) {
  Usage usage(4);
  EXPECT_TRUE(usage.touched_since(0).empty());
  read(usage, {3, 0}, 0);
  read(usage, {2}, 4);
  usage.begin_window(5);
  EXPECT_THAT(usage.touched_since(0), ElementsAre(0, 2, 3));
  EXPECT_THAT(usage.touched_since(4), ElementsAre(2));
  EXPECT_TRUE(usage.touched_since(5).empty());
}

TEST(Usage, HoldsNothingBeforeTheFirstRead) {
  Usage usage(int64_t{1} << 50);  // its counters fit no machine
  EXPECT_EQ(usage.metrics().reads, 0);
  EXPECT_TRUE(usage.touched_since(0).empty());
  expect_error(ExitCode::resources, "counters of rows", [&] { read(usage, {1}, 0); });
}

TEST(Usage, ObservesReadsInAnyLayoutAndType) {
  Usage usage(6);
  const at::Tensor index = at::tensor({4, 0, 4, 2}, at::kLong).view({2, 1, 2}),
                   weight = at::tensor({0.25, 0.5, 0.75, 1.0}, at::kDouble).view({2, 1, 2});
  const auto with_other_strides = [](const at::Tensor& t) { return t.transpose(0, 2).contiguous().transpose(0, 2); };
  usage.reads({.output = {}, .score = {}, .index = with_other_strides(index), .weight = with_other_strides(weight)});
  EXPECT_THAT(reads_of(usage), ElementsAre(1, 0, 1, 0, 2, 0));
  EXPECT_EQ(usage.row(4).weight, 1);
  const at::Tensor elsewhere = at::empty({2, 1, 2}, at::TensorOptions(at::kLong).device(at::kMeta));
  EXPECT_THROW(usage.reads({.output = {}, .score = {}, .index = elsewhere, .weight = weight}), c10::Error);
}

TEST(Usage, BadCallsAreRefusedAndChangeNothing) {
  Usage usage(4);
  read(usage, {1}, 0);
  EXPECT_THROW(read(usage, {0, 4}, 1), c10::IndexError);
  EXPECT_THROW(read(usage, {0, -1}, 1), c10::IndexError);
  expect_error(ExitCode::bug, "Usage: row must be within 0 .. 3, got 4", [&] { usage.row(4); });
  expect_error(ExitCode::bug, "Usage: row must be within 0 .. 3, got -1", [&] { usage.row(-1); });
  expect_error(ExitCode::bug, "step must be within 1 .. 2^31 - 2, got 0", [&] { usage.set_step(0); });
  expect_error(ExitCode::bug, "step must be within 1 .. 2^31 - 2, got 2147483647",
               [&] { usage.set_step(std::numeric_limits<int32_t>::max()); });
  expect_error(ExitCode::bug, "rows must be at least 1, got 0", [] { Usage(0); });
  EXPECT_THAT(reads_of(usage), ElementsAre(0, 1, 0, 0));
  add(usage, {}, {}, 0, 4, 32);
  EXPECT_EQ(usage.metrics().reads, 1);
}

}  // namespace
}  // namespace loci
