// What a row optimiser keeps for the rows: its types, its memory, saved and cleared.
//
// Legend: N rows, D width.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>

#include "loci/base/progress.h"
#include "loci/optim/row_optimizer.h"
#include "loci/table/local_table.h"
#include "tests/trained_table.h"

namespace loci {
namespace {

using at::Tensor;

TEST(RowOptimizerState, SavedAndRestoredInTheMiddleItContinuesWithTheSameBits) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const RowRule rule : kRules) {
      for (const auto rounding : {RowRounding::stochastic, RowRounding::master}) {
        const RowOptimizerOptions options{.rule = rule, .learning_rate = 0.05, .rounding = rounding};
        const TablePtr unbroken = trained_table(dtype), resumed = trained_table(dtype);
        RowOptimizer whole(unbroken->store(), options, 5);
        for (int step = 0; step < 4; ++step) {
          train_reads(*unbroken, step);
          whole.step();
        }
        RowOptimizer second(resumed->store(), options, 5);
        resumed->store().values().data().copy_(unbroken->store().values().data());
        const auto from = whole.state(), to = second.state();
        for (size_t i = 0; i < from.size(); ++i) {
          EXPECT_EQ(from[i].first, to[i].first);
          to[i].second.copy_(from[i].second);
        }
        for (int step = 4; step < 8; ++step) {
          train_reads(*unbroken, step);
          whole.step();
          train_reads(*resumed, step);
          second.step();
        }
        EXPECT_TRUE(torch::equal(unbroken->store().values(), resumed->store().values()));
        for (size_t i = 0; i < from.size(); ++i) EXPECT_TRUE(torch::equal(from[i].second, to[i].second));
        EXPECT_EQ(from.back().first, "steps");
        EXPECT_EQ(from.back().second.item<int64_t>(), 8);
      }
    }
  }
}

TEST(RowOptimizerState, MomentsInBfloat16TrainLikeThoseInFloat32) {
  std::vector<double> error;
  for (const auto moments : {RowMoments::float32, RowMoments::bfloat16}) {
    const TablePtr table = trained_table();
    RowOptimizer rows(table->store(), {.rule = RowRule::adam, .learning_rate = 0.02, .moments = moments}, 0);
    for (int step = 0; step < 400; ++step) {  // towards rows of ones
      leave_gradient(*table, torch::arange(kRows), table->store().values().detach() - 1);
      rows.step();
    }
    error.push_back((table->store().values() - 1).abs().max().item<double>());
    EXPECT_EQ(rows.state()[0].second.scalar_type(), moments == RowMoments::bfloat16 ? at::kBFloat16 : at::kFloat);
  }
  EXPECT_LT(error[0], 0.1);              // from about 3
  EXPECT_LT(error[1], error[0] + 0.02);  // a step of the learning rate
}

TEST(RowOptimizerState, SmallPagesLetUntouchedRowsCostNothing) {
  const int64_t rows_count = int64_t{1} << 20, width = 64;  // 256 MiB, and 512 MiB of moments
  auto table = std::make_shared<LocalTable>("memory", rows_count, width);
  table->register_use();
  RowOptimizer rows(table->store(), {.rule = RowRule::adam, .pages = RowPages::small}, 0);
  const int64_t before = resident_bytes();
  leave_gradient(*table, torch::arange(100) * (rows_count / 100), torch::ones({100, width}));
  rows.step();
  // A huge page of the table for each of the hundred rows, and small ones of the state.
  EXPECT_LT(resident_bytes() - before, int64_t{300} << 20);
}

TEST(RowOptimizerState, MasterRowsGatherSmallUpdatesThatNearestLoses) {
  for (const auto rounding : {RowRounding::nearest, RowRounding::master}) {
    auto table = std::make_shared<LocalTable>("memory", 2, 3, LocalTableOptions{at::kBFloat16});
    table->store().values().data().fill_(1);
    RowOptimizer rows(table->store(), {.rule = RowRule::sgd, .learning_rate = 1e-4, .rounding = rounding}, 0);
    const auto run = [&](int steps) {
      for (int step = 0; step < steps; ++step) {
        leave_gradient(*table, torch::tensor({0}, at::kLong), torch::ones({1, 3}));
        rows.step();
      }
      return table->store().values()[0][0].item<double>();
    };
    EXPECT_NEAR(run(1000), rounding == RowRounding::master ? 0.9 : 1.0, 1.0 / 512);
    // A row written from outside starts its copy again.
    table->store().values().data().fill_(2);
    EXPECT_NEAR(run(1), 2, 1e-9);
    EXPECT_NEAR(run(999), rounding == RowRounding::master ? 1.9 : 2.0, 1.0 / 128);
  }
}

TEST(RowOptimizerState, ClearedStateStartsRowsAnew) {
  const TablePtr table = trained_table();
  RowOptimizer rows(table->store(), {.rule = RowRule::adam}, 0);
  for (int step = 0; step < 3; ++step) {
    train_reads(*table, step, 60);
    rows.step();
  }
  const auto named = rows.state();
  rows.clear_state(torch::tensor({2, 5}, at::kLong));
  for (const auto& [name, state] : named) {
    if (name == "steps") continue;
    EXPECT_EQ(state[2].count_nonzero().item<int64_t>(), 0) << name;
    EXPECT_NE(state[3].count_nonzero().item<int64_t>(), 0) << name;
  }
  rows.clear_state();
  for (const auto& [name, state] : named) {
    if (name == "steps") continue;
    EXPECT_EQ(state.count_nonzero().item<int64_t>(), 0) << name;
  }
}

TEST(RowOptimizerState, StateBytesAreThoseOfTheState) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const RowRule rule : kRules) {
      for (const auto rounding : {RowRounding::stochastic, RowRounding::master}) {
        for (const auto moments : {RowMoments::float32, RowMoments::bfloat16}) {
          const RowOptimizerOptions options{.rule = rule, .rounding = rounding, .moments = moments};
          const RowOptimizer rows(trained_table(dtype)->store(), options, 0);
          int64_t bytes = 0;
          for (const auto& [name, state] : rows.state()) {
            if (name != "steps") bytes += static_cast<int64_t>(state.nbytes());
          }
          EXPECT_EQ(RowOptimizer::state_bytes(kRows, kWidth, options, dtype), bytes);
        }
      }
    }
  }
}

// Counts the bytes that the framework allocates on this thread.
class AllocationCount : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override {
    if (size <= 0) return;
    total += size;
    largest = std::max(largest, size);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t total = 0;
  int64_t largest = 0;
};

TEST(RowOptimizerState, ATrainingStepOnAMillionRowsAllocatesNothingOfTableSize) {
  const int64_t rows_count = int64_t{1} << 20, width = 64, tokens = 64, reads = 16;
  const int64_t table_bytes = rows_count * width * 4;  // 256 MiB
  auto table = std::make_shared<LocalTable>("memory", rows_count, width);
  table->register_use();
  RowOptimizer rows(table->store(), {.rule = RowRule::adam}, 0);
  train_reads(*table, 1, tokens, reads);
  rows.step();

  const int64_t before = peak_resident_bytes();
  auto count = std::make_shared<AllocationCount>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, count);
    train_reads(*table, 2, tokens, reads);
    EXPECT_GT(rows.step().rows, 900);
  }
  EXPECT_GT(count->total, 0);
  EXPECT_LT(count->total, table_bytes / 64);
  EXPECT_LT(peak_resident_bytes() - before, table_bytes / 2);
}

}  // namespace
}  // namespace loci
