#include "loci/data/ram/curriculum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "loci/base/check.h"

namespace loci::curriculum_test {
namespace {

RandomSequence sequence(std::string_view name, uint64_t position = 0) {
  return RandomSequence(CounterRandom(7, name), position);
}

// The probability of each difficulty, written down from the rule: index d - 1.
std::vector<double> rule(int64_t minimum, int64_t maximum, int64_t level) {
  std::vector<double> probability(static_cast<size_t>(maximum), 0.0);
  const auto add = [&](int64_t d, double p) {
    probability[static_cast<size_t>(std::clamp(d, minimum, maximum) - 1)] += p;
  };
  for (int64_t d = minimum; d <= maximum; ++d) add(d, 0.10 / static_cast<double>(maximum - minimum + 1));
  double weight = 0.5;
  for (int64_t e = 0; e < 64; ++e, weight /= 2) {
    add(level + e, 0.65 * weight);
    for (int64_t d = 1; d <= level + e; ++d) add(d, 0.25 * weight / static_cast<double>(level + e));
  }
  return probability;
}

// Critical values of chi-square at p = 1e-6 for 1 .. 9 degrees of freedom.
constexpr double kChiSquare[] = {23.93, 27.63, 30.66, 33.38, 35.89, 38.26, 40.52, 42.70, 44.81};

TEST(Curriculum, DrawsFollowTheRule) {
  for (const auto& [minimum, maximum, level] :
       std::vector<std::array<int64_t, 3>>{{1, 8, 1}, {1, 8, 4}, {1, 8, 8}, {2, 8, 2}, {2, 10, 5}, {1, 2, 1}}) {
    const Curriculum curriculum({.minimum = minimum, .maximum = maximum}, {.level = level});
    RandomSequence random = sequence("draws");
    constexpr int kDraws = 40000;
    std::vector<int> count(static_cast<size_t>(maximum), 0);
    for (int i = 0; i < kDraws; ++i) {
      const int64_t d = curriculum.draw(random);
      ASSERT_GE(d, minimum);
      ASSERT_LE(d, maximum);
      ++count[static_cast<size_t>(d - 1)];
    }
    double chi = 0;
    const std::vector<double> probability = rule(minimum, maximum, level);
    for (size_t d = static_cast<size_t>(minimum - 1); d < count.size(); ++d) {
      const double expected = kDraws * probability[d];
      chi += (count[d] - expected) * (count[d] - expected) / expected;
    }
    EXPECT_LT(chi, kChiSquare[maximum - minimum - 1]) << "minimum " << minimum << " level " << level;
  }
}

TEST(Curriculum, DrawIsAFunctionOfStateAndPosition) {
  const Curriculum curriculum({}, {.level = 3});
  RandomSequence first = sequence("same");
  std::vector<int64_t> drawn;
  for (int i = 0; i < 100; ++i) drawn.push_back(curriculum.draw(first));
  for (uint64_t i = 0; i < 100; ++i) {
    RandomSequence again = sequence("same", 3 * i);
    EXPECT_EQ(Curriculum({}, {.level = 3}).draw(again), drawn[i]);
  }
}

TEST(Curriculum, RisesBelowTheThresholdAfterTheGap) {
  Curriculum curriculum({.minimum = 1, .maximum = 3, .threshold = 0.2, .gap = 50});
  for (int update = 1; update < 50; ++update) ASSERT_FALSE(curriculum.observe(1, 0));
  EXPECT_LT(curriculum.state().error, 0.2);
  EXPECT_TRUE(curriculum.observe(1, 0));
  EXPECT_EQ(curriculum.state(), (CurriculumState{.level = 2, .updates_since_rise = 0, .error = 1}));
  for (int update = 1; update < 50; ++update) ASSERT_FALSE(curriculum.observe(2, 0));
  EXPECT_TRUE(curriculum.observe(3, 0));
  for (int update = 0; update < 200; ++update) ASSERT_FALSE(curriculum.observe(3, 0)) << "no level above the maximum";
  EXPECT_EQ(curriculum.state().level, 3);
}

TEST(Curriculum, ErrorIsAMovingAverageOverHardEnoughBatches) {
  Curriculum curriculum({.maximum = 8, .gap = 0}, {.level = 4});
  curriculum.observe(3, 0);
  EXPECT_EQ(curriculum.state().error, 1);
  curriculum.observe(4, 0.5);
  EXPECT_DOUBLE_EQ(curriculum.state().error, 0.95);
  curriculum.observe(6, 0.5);
  EXPECT_DOUBLE_EQ(curriculum.state().error, 0.905);
  EXPECT_EQ(curriculum.state().updates_since_rise, 3);
}

TEST(Curriculum, AtTheThresholdItStays) {
  Curriculum curriculum({.threshold = 0.9, .gap = 0});
  EXPECT_FALSE(curriculum.observe(1, 0)) << "0.9 is not below 0.9";
  EXPECT_TRUE(curriculum.observe(1, 0));
}

TEST(Curriculum, RefusesBadOptionsAndNumbers) {
  EXPECT_THROW(Curriculum({.minimum = 0}), Error);
  EXPECT_THROW(Curriculum({.minimum = 5, .maximum = 4}), Error);
  EXPECT_THROW(Curriculum({.threshold = std::numeric_limits<double>::quiet_NaN()}), Error);
  EXPECT_THROW(Curriculum({.maximum = 8}, {.level = 9}), Error);
  EXPECT_THROW(Curriculum({}).observe(1, std::numeric_limits<double>::quiet_NaN()), Error);
}

}  // namespace
}  // namespace loci::curriculum_test
