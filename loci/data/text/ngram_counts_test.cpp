#include "loci/data/text/ngram_counts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "loci/base/random.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using Tokens = std::vector<int64_t>;

NgramCounts counted(int64_t order, int64_t vocabulary, const std::vector<Tokens>& texts) {
  NgramCounts counts(order, vocabulary);
  for (const Tokens& text : texts) counts.add(text);
  counts.finish();
  return counts;
}

// Words that follow each other by a rule, with some noise.
Tokens structured_text(int64_t vocabulary, int64_t size, uint64_t seed) {
  const CounterRandom random(seed, "text");
  Tokens text = {1, 2};
  for (int64_t i = 2; i < size; ++i) {
    const int64_t rule = (3 * text[text.size() - 1] + 5 * text[text.size() - 2] + 1) % vocabulary;
    const auto noise = static_cast<int64_t>(random.bits(static_cast<uint64_t>(i)) >> 8U);
    text.push_back(noise % 4 == 0 ? (noise / 4) % vocabulary : rule);
  }
  return text;
}

double mean_nats(const NgramCounts& counts, const Tokens& text, size_t from = 2) {
  double nats = 0;
  for (size_t i = from; i < text.size(); ++i) nats -= std::log(counts.probability({text.data(), i}, text[i]));
  return nats / static_cast<double>(text.size() - from);
}

TEST(NgramCounts, ProbabilitiesOfEveryHistoryAddUpToOne) {
  const Tokens text = structured_text(11, 400, 1);
  for (int64_t order = 1; order <= NgramCounts::kMostOrder; ++order) {
    const NgramCounts counts = counted(order, 13, {text});  // two tokens never occur
    for (const Tokens& history : std::vector<Tokens>{{}, {3}, {12}, {1, 2}, {2, 12}, {12, 12}, {5, 6, 7}}) {
      double sum = 0;
      for (int64_t token = 0; token < 13; ++token) {
        const double p = counts.probability(history, token);
        EXPECT_GT(p, 0);
        sum += p;
      }
      EXPECT_NEAR(sum, 1, 1e-12) << "order " << order << " history of " << history.size();
    }
  }
}

// 0 1 three times, 1 0 twice, 1 2 and 2 0 once, too few for discounts of their own: 1/2, 1, 3/2. Different tokens in
// front: two of 0, one of 1 and of 2.
TEST(NgramCounts, BigramsByHand) {
  const NgramCounts counts = counted(2, 4, {{0, 1, 0, 1, 2, 0, 1}, {1, 0}});
  EXPECT_EQ(counts.distinct(), 4);
  const double left = (1 + 0.5 + 0.5) / 4, uniform = 1.0 / 4;
  const double p0 = (2 - 1) / 4.0 + left * uniform, p1 = (1 - 0.5) / 4 + left * uniform, p3 = left * uniform;
  const Tokens zero = {0}, one = {1}, three = {3};
  EXPECT_NEAR(counts.probability({}, 0), p0, 1e-15);
  EXPECT_NEAR(counts.probability({}, 1), p1, 1e-15);
  EXPECT_NEAR(counts.probability({}, 3), p3, 1e-15);
  EXPECT_NEAR(counts.probability(one, 0), (2 - 1) / 3.0 + (1 + 0.5) / 3 * p0, 1e-15);
  EXPECT_NEAR(counts.probability(one, 2), (1 - 0.5) / 3.0 + (1 + 0.5) / 3 * p1, 1e-15);
  EXPECT_NEAR(counts.probability(one, 3), (1 + 0.5) / 3 * p3, 1e-15);
  EXPECT_NEAR(counts.probability(zero, 1), (3 - 1.5) / 3 + 1.5 / 3 * p1, 1e-15);
  EXPECT_NEAR(counts.probability(three, 1), p1, 1e-15);  // 3 was never a history
}

// One n-gram with count 4, two with 3, three with 2, four with 1: Y = 4 / 10, D = 1 - 2 Y 3/4, 2 - 3 Y 2/3, 3 - 4 Y
// 1/2.
TEST(NgramCounts, DiscountsFollowTheCountsOfCounts) {
  Tokens text;
  for (const auto& [token, times] : std::vector<std::pair<int64_t, size_t>>{
           {0, 4}, {1, 3}, {2, 3}, {3, 2}, {4, 2}, {5, 2}, {6, 1}, {7, 1}, {8, 1}, {9, 1}}) {
    text.insert(text.end(), times, token);
  }
  const NgramCounts counts = counted(1, 10, {text});
  const double d1 = 0.4, d2 = 1.2, d3 = 2.2, left = (4 * d1 + 3 * d2 + 3 * d3) / 20;
  EXPECT_NEAR(counts.probability({}, 0), (4 - d3) / 20 + left / 10, 1e-15);
  EXPECT_NEAR(counts.probability({}, 2), (3 - d3) / 20 + left / 10, 1e-15);
  EXPECT_NEAR(counts.probability({}, 5), (2 - d2) / 20 + left / 10, 1e-15);
  EXPECT_NEAR(counts.probability({}, 9), (1 - d1) / 20 + left / 10, 1e-15);
}

TEST(NgramCounts, AnOrderThatTheTextHasPredictsBetterThanALowerOne) {
  const Tokens train = structured_text(20, 20000, 1), test = structured_text(20, 3000, 2);
  std::vector<double> nats;
  for (int64_t order = 1; order <= 3; ++order) nats.push_back(mean_nats(counted(order, 20, {train}), test));
  EXPECT_NEAR(nats[0], std::log(20), 0.02);
  EXPECT_LT(nats[1], nats[0] + 0.02);
  // The rule and its noise: 3/4 + 1/80 of one token, 1/80 of the others.
  const double entropy = -(61.0 / 80 * std::log(61.0 / 80) + 19.0 / 80 * std::log(1.0 / 80));
  EXPECT_NEAR(nats[2], entropy, 0.1);
}

TEST(NgramCounts, ATextIsNotContinuedByTheNextOne) {
  const NgramCounts apart = counted(2, 3, {{0, 1}, {2, 0}}), joined = counted(2, 3, {{0, 1, 2, 0}});
  EXPECT_EQ(apart.distinct(), 2);
  EXPECT_EQ(joined.distinct(), 3);
}

TEST(NgramCounts, SmallTextsGiveProbabilities) {
  for (int64_t order = 1; order <= 3; ++order) {
    for (const Tokens& text : std::vector<Tokens>{{}, {2}, {2, 1}, {2, 1, 0}, {1, 1, 1, 1, 1, 1}}) {
      const NgramCounts counts = counted(order, 3, {text});
      const Tokens history = {1, 1};
      double sum = 0;
      for (int64_t token = 0; token < 3; ++token) sum += counts.probability(history, token);
      EXPECT_NEAR(sum, 1, 1e-12) << order << " " << text.size();
    }
  }
}

TEST(NgramCounts, CountOfAHistoryIsHowOftenItStoodBeforeAToken) {
  const NgramCounts counts = counted(3, 5, {{1, 2, 3, 1, 2, 4, 1, 2}});  // the last "1 2" stands before nothing
  EXPECT_EQ(counts.count_of(Tokens{0, 1, 2}), 2);
  EXPECT_EQ(counts.count_of(Tokens{2, 3}), 1);
  EXPECT_EQ(counts.count_of(Tokens{2, 1}), 0);
  EXPECT_EQ(counts.count_of(Tokens{2}), 0);
  EXPECT_EQ(counted(1, 5, {{1, 2, 3}}).count_of({}), 3);
}

TEST(NgramCounts, RefusesTokensBeyondTheVocabulary) {
  NgramCounts counts(2, 3);
  const Tokens high = {0, 3}, low = {-1};
  expect_error(ExitCode::bug, "n-gram counts: tokens must be within 0 .. 2, got 3", [&] { counts.add(high); });
  expect_error(ExitCode::bug, "n-gram counts: tokens must be within 0 .. 2, got -1", [&] { counts.add(low); });
  expect_error(ExitCode::bug, "n-gram counts: order must be within 1 .. 3, got 4", [] { NgramCounts(4, 3); });
  expect_error(ExitCode::bug, "n-gram counts: vocabulary must be within 1 .. 2^31 - 1, got 0",
               [] { NgramCounts(1, 0); });
}

}  // namespace
}  // namespace loci
