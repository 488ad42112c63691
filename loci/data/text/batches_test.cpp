#include "loci/data/text/batches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "loci/base/check.h"

namespace loci {
namespace {

template <class Value>
std::vector<Value> counting(int64_t size) {
  std::vector<Value> tokens(size);
  std::iota(tokens.begin(), tokens.end(), Value{0});
  return tokens;
}

struct Batch {
  std::vector<int64_t> input, target;
};

Batch batch_of(const WindowSampler& sampler, int64_t step, int64_t micro, int64_t size) {
  Batch batch{std::vector<int64_t>(size), std::vector<int64_t>(size)};
  sampler.fill(step, micro, batch.input.data(), batch.target.data());
  return batch;
}

TEST(WindowSamplerTest, GivesRunsOfTokensAndTheNextOnes) {
  const auto tokens = counting<uint16_t>(1000);
  const WindowSampler sampler(TokenSpan(tokens.data(), 1000), 16, 4, 1);
  for (int64_t step = 0; step < 50; ++step) {
    const Batch batch = batch_of(sampler, step, 0, 64);
    for (int i = 0; i < 64; ++i) {
      EXPECT_EQ(batch.target[i], batch.input[i] + 1);
      EXPECT_EQ(batch.input[i], batch.input[i / 16 * 16] + i % 16);
    }
  }
}

// Numbers of the first version: a seed keeps its batches, so that results can be repeated.
TEST(WindowSamplerTest, ASeedKeepsItsBatches) {
  const auto tokens = counting<uint16_t>(101);
  const WindowSampler sampler(TokenSpan(tokens.data(), 101), 7, 3, 42, 2);
  ASSERT_EQ(sampler.windows_per_epoch(), 13);
  std::vector<int64_t> begins;
  for (int64_t batch = 0; batch < 12; ++batch) {
    const std::vector<int64_t> input = batch_of(sampler, batch / 2, batch % 2, 21).input;
    for (const size_t window : {0, 7, 14}) begins.push_back(input[window]);
  }
  EXPECT_THAT(begins, testing::ElementsAre(3, 73, 66, 24, 59, 17, 45, 87, 31, 52, 38, 80, 10, 69, 6, 62, 48, 83, 27, 90,
                                           20, 41, 13, 55, 76, 34, 72, 9, 58, 79, 16, 23, 51, 44, 37, 30));
}

TEST(WindowSamplerTest, IsAFunctionOfSeedStepAndMicro) {
  const auto tokens = counting<uint16_t>(5000);
  const TokenSpan span(tokens.data(), 5000);
  const WindowSampler sampler(span, 16, 4, 1, 2), same(span, 16, 4, 1, 2), other(span, 16, 4, 2, 2);
  std::set<std::vector<int64_t>> different;
  for (int64_t step = 9; step >= 0; --step) {
    for (int64_t micro : {1, 0}) {
      EXPECT_EQ(batch_of(sampler, step, micro, 64).input, batch_of(same, step, micro, 64).input);
      EXPECT_NE(batch_of(sampler, step, micro, 64).input, batch_of(other, step, micro, 64).input);
      different.insert(batch_of(sampler, step, micro, 64).input);
    }
  }
  EXPECT_EQ(different.size(), 20u);
  // Accumulation regroups the same windows.
  const WindowSampler flat(span, 16, 4, 1, 1);
  EXPECT_EQ(batch_of(sampler, 3, 1, 64).input, batch_of(flat, 7, 0, 64).input);
}

TEST(WindowSamplerTest, VisitsEachWindowOnceAnEpochAndEachTokenAsTargetInTheEnd) {
  const auto tokens = counting<uint32_t>(103);
  const WindowSampler sampler(TokenSpan(tokens.data(), 103), 10, 1, 3);
  const int64_t windows = sampler.windows_per_epoch();
  EXPECT_EQ(windows, 9);
  std::set<int64_t> phases, targets;
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 60; ++epoch) {
    std::set<int64_t> begins;
    std::vector<int64_t> order;
    for (int64_t i = 0; i < windows; ++i) {
      const Batch batch = batch_of(sampler, epoch * windows + i, 0, 10);
      begins.insert(batch.input[0]);
      order.push_back(batch.input[0] / 10);
      targets.insert(batch.target.begin(), batch.target.end());
    }
    EXPECT_EQ(static_cast<int64_t>(begins.size()), windows);
    EXPECT_EQ(*begins.rbegin() - *begins.begin(), (windows - 1) * 10);
    phases.insert(*begins.begin());
    orders.insert(order);
  }
  EXPECT_EQ(phases.size(), 10u);
  EXPECT_EQ(orders.size(), 60u);
  EXPECT_EQ(targets.size(), 99u);  // 1 .. 99: phases 0..9 and 9 windows of 10
}

TEST(WindowSamplerTest, TakesATextOfJustOneBatchAndNoLess) {
  const auto tokens = counting<uint16_t>(45);
  for (int64_t size : {41, 42, 45}) {
    const WindowSampler sampler(TokenSpan(tokens.data(), size), 10, 4, 1);
    for (int64_t step = 0; step < 30; ++step) {
      const Batch batch = batch_of(sampler, step, 0, 40);
      for (int64_t target : batch.target) EXPECT_LT(target, size);
    }
  }
  try {
    WindowSampler(TokenSpan(tokens.data(), 40), 10, 4, 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input);
    EXPECT_STREQ(error.what(),
                 "batches: the training text must hold 41 tokens, a batch of 4 windows of 10 and one, got 40");
  }
  EXPECT_THROW(WindowSampler(TokenSpan(), 10, 4, 1), Error);
  EXPECT_THROW(WindowSampler(TokenSpan(tokens.data(), 45), 0, 4, 1), Error);
  EXPECT_THROW(WindowSampler(TokenSpan(tokens.data(), 45), 10, 0, 1), Error);
  EXPECT_THROW(WindowSampler(TokenSpan(tokens.data(), 45), int64_t{1} << 40, int64_t{1} << 40, 1), Error);
}

TEST(EvaluationWindowsTest, MakesEachTokenButTheFirstATargetOnce) {
  const auto tokens = counting<uint16_t>(200);
  for (int64_t size : {2, 10, 11, 12, 21, 100, 101, 200}) {
    const EvaluationWindows windows(TokenSpan(tokens.data(), size), 10, 3);
    std::vector<int64_t> targets;
    int64_t valid = 0;
    for (int64_t index = 0; index < windows.batches(); ++index) {
      Batch batch{std::vector<int64_t>(30, 7), std::vector<int64_t>(30, 7)};
      valid += windows.fill(index, batch.input.data(), batch.target.data());
      for (int i = 0; i < 30; ++i) {
        if (batch.target[i] == EvaluationWindows::kNoTarget) {
          EXPECT_EQ(batch.input[i], 0);
        } else {
          EXPECT_EQ(batch.target[i], batch.input[i] + 1);
          targets.push_back(batch.target[i]);
        }
      }
    }
    std::vector<int64_t> expected(size - 1);
    std::iota(expected.begin(), expected.end(), 1);
    EXPECT_EQ(targets, expected);
    EXPECT_EQ(valid, size - 1);
  }
}

TEST(EvaluationWindowsTest, RefusesTooLittleText) {
  const auto tokens = counting<uint16_t>(2);
  EXPECT_THROW(EvaluationWindows(TokenSpan(tokens.data(), 1), 10, 3), Error);
  EXPECT_THROW(EvaluationWindows(TokenSpan(), 10, 3), Error);
  Batch batch{std::vector<int64_t>(30), std::vector<int64_t>(30)};
  EXPECT_THROW(EvaluationWindows(TokenSpan(tokens.data(), 2), 10, 3).fill(1, batch.input.data(), batch.target.data()),
               Error);
}

}  // namespace
}  // namespace loci
