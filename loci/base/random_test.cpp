#include "loci/base/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "loci/base/check.h"

namespace loci {
namespace {

using ::testing::ElementsAre;

// Known-answer vectors published with Random123 for philox4x32-10.
TEST(Philox, GivesThePublishedVectors) {
  EXPECT_THAT(philox({0, 0, 0, 0}, {0, 0}), ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  EXPECT_THAT(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
              ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

TEST(CounterRandom, DependsOnSeedStreamAndPositionAlone) {
  const CounterRandom a(7, "weights");
  const CounterRandom b(7, stream_of("weights"));
  EXPECT_EQ(a.bits(5), b.bits(5));
  std::set<uint64_t> values;
  for (uint64_t seed : {7ull, 8ull, 7ull << 32}) {
    for (uint64_t stream : {1ull, 2ull, 1ull << 32}) {
      for (uint64_t position : {0ull, 1ull, 1ull << 32}) values.insert(CounterRandom(seed, stream).bits(position));
    }
  }
  EXPECT_EQ(values.size(), 27u);
}

TEST(CounterRandom, KeepsItsValuesBetweenVersions) {
  const CounterRandom random(1, 2);
  EXPECT_EQ(random.bits(3), CounterRandom(1, 2).bits(3));
  const auto words = philox({3, 0, 2, 0}, {1, 0});
  EXPECT_EQ(random.bits(3), uint64_t{words[1]} << 32 | words[0]);
}

TEST(CounterRandom, HasTheMomentsOfItsDistributions) {
  const CounterRandom random(3, "moments");
  const int count = 200000;
  double uniform_sum = 0, normal_sum = 0, normal_square = 0, normal_fourth = 0;
  for (int i = 0; i < count; ++i) {
    const double u = random.uniform(i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    uniform_sum += u;
    const double n = random.normal(i);
    ASSERT_TRUE(std::isfinite(n));
    normal_sum += n;
    normal_square += n * n;
    normal_fourth += n * n * n * n;
  }
  const double five_sigma = 5 / std::sqrt(count);
  EXPECT_NEAR(uniform_sum / count, 0.5, five_sigma * std::sqrt(1. / 12));
  EXPECT_NEAR(normal_sum / count, 0, five_sigma);
  EXPECT_NEAR(normal_square / count, 1, five_sigma * std::sqrt(2));
  EXPECT_NEAR(normal_fourth / count, 3, five_sigma * std::sqrt(96));
}

TEST(CounterRandom, BelowCoversItsRangeEvenly) {
  const CounterRandom random(3, "below");
  std::vector<int> hits(7);
  for (int i = 0; i < 70000; ++i) ++hits.at(random.below(i, 7));
  for (int h : hits) EXPECT_NEAR(h, 10000, 5 * std::sqrt(70000 * (1. / 7) * (6. / 7)));
  EXPECT_EQ(random.below(0, 1), 0u);
  EXPECT_THROW(random.below(0, 0), Error);
}

TEST(CounterPermutation, IsABijectionOfAnySize) {
  for (uint64_t size : {1, 2, 3, 7, 16, 1000}) {
    for (uint64_t seed = 0; seed < 4; ++seed) {
      const CounterPermutation permutation(size, seed, 9);
      std::set<uint64_t> seen;
      for (uint64_t i = 0; i < size; ++i) {
        ASSERT_LT(permutation(i), size);
        seen.insert(permutation(i));
      }
      EXPECT_EQ(seen.size(), size);
    }
  }
}

TEST(CounterPermutation, ReachesEveryOrderOfThreeAndSpreadsEachPosition) {
  std::set<std::vector<uint64_t>> orders;
  std::vector<int> first(10);
  for (uint64_t seed = 0; seed < 5000; ++seed) {
    const CounterPermutation three(3, seed, 0);
    orders.insert({three(0), three(1), three(2)});
    ++first.at(CounterPermutation(10, seed, 0)(0));
  }
  EXPECT_EQ(orders.size(), 6u);
  for (int hits : first) EXPECT_NEAR(hits, 500, 5 * std::sqrt(5000 * 0.1 * 0.9));
}

TEST(CounterPermutation, TakesTheLargestSizeAndRefusesWhatIsOutside) {
  const CounterPermutation whole(~uint64_t{0}, 1, 2);
  EXPECT_NE(whole(0), whole(1));
  EXPECT_LT(whole(~uint64_t{0} - 1), ~uint64_t{0});
  EXPECT_THROW(CounterPermutation(0, 1, 2), Error);
  EXPECT_THROW(CounterPermutation(3, 1, 2)(3), Error);
}

}  // namespace
}  // namespace loci
