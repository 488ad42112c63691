#include "loci/data/text/masking.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "loci/data/text/batches.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

constexpr int64_t kWords = 1000;  // tokens of the tokenizer

struct Masked {
  std::vector<int64_t> before, input, target;
  int64_t chosen = 0;
};

Masked masked(const MaskingOptions& options, int64_t count, uint64_t seed = 1, int64_t position = 0) {
  Masked m;
  for (int64_t i = 0; i < count; ++i) m.before.push_back((position + i) * 7 % kWords);
  m.input = m.before;
  m.target.assign(static_cast<size_t>(count), 0);
  m.chosen = TokenMasking(options, kWords, seed, "test").apply(position, count, m.input.data(), m.target.data());
  return m;
}

// Standard deviations of the shares: 0.0011 of the tokens, 0.0033 of the chosen.
TEST(TokenMasking, ChoosesFifteenPercentAndTreatsThemEightyTenTen) {
  const int64_t count = 100'000;
  const Masked m = masked({}, count);
  int64_t chosen = 0, symbol = 0, random = 0, kept = 0;
  for (size_t i = 0; i < m.before.size(); ++i) {
    if (m.target[i] < 0) {
      EXPECT_EQ(m.target[i], EvaluationWindows::kNoTarget);
      EXPECT_EQ(m.input[i], m.before[i]) << i;
      continue;
    }
    ++chosen;
    EXPECT_EQ(m.target[i], m.before[i]) << i;
    if (m.input[i] == kWords) {
      ++symbol;
    } else if (m.input[i] == m.before[i]) {
      ++kept;
    } else {
      EXPECT_TRUE(m.input[i] >= 0 && m.input[i] < kWords);
      ++random;
    }
  }
  EXPECT_EQ(m.chosen, chosen);
  const auto of = [](int64_t part, int64_t all) { return static_cast<double>(part) / static_cast<double>(all); };
  EXPECT_NEAR(of(chosen, count), 0.15, 0.005);
  EXPECT_NEAR(of(symbol, chosen), 0.8, 0.014);
  EXPECT_NEAR(of(random, chosen), 0.1, 0.011);
  EXPECT_NEAR(of(kept, chosen), 0.1, 0.011);
}

TEST(TokenMasking, FollowsFromSeedAndPositionAlone) {
  const Masked whole = masked({}, 600);
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {13, 500}, {599, 1}}) {
    const Masked part = masked({}, count, 1, first);
    for (int64_t i = 0; i < count; ++i) {
      EXPECT_EQ(part.input[static_cast<size_t>(i)], whole.input[static_cast<size_t>(first + i)]) << first + i;
      EXPECT_EQ(part.target[static_cast<size_t>(i)], whole.target[static_cast<size_t>(first + i)]) << first + i;
    }
  }
  EXPECT_NE(masked({}, 600, 2).target, whole.target);
  EXPECT_EQ(masked({}, 0).chosen, 0);
}

TEST(TokenMasking, LeavesPaddingAlone) {
  std::array<int64_t, 4> input = {5, 6, 7, 8}, target = {1, EvaluationWindows::kNoTarget, 1, -1};
  const TokenMasking all({.share = 1, .symbol = 1, .random = 0}, kWords, 1, "test");
  EXPECT_EQ(all.apply(0, 4, input.data(), target.data()), 2);
  EXPECT_EQ(input, (std::array<int64_t, 4>{kWords, 6, kWords, 8}));
  EXPECT_EQ(target, (std::array<int64_t, 4>{5, EvaluationWindows::kNoTarget, 7, EvaluationWindows::kNoTarget}));
}

TEST(TokenMasking, SharesThatAreMoreThanOneTogetherAreRefused) {
  expect_error(ExitCode::usage, "masking: symbol + random must be at most 1, got 0.8 + 0.3",
               [] { MaskingOptions({.random = 0.3}).check(); });
  MaskingOptions().check();
}

}  // namespace
}  // namespace loci
