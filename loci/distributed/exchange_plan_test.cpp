// Legend: T tokens, K reads of a token, P ranks.
#include "loci/distributed/exchange_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace loci {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(ExchangePlan, ReadsGoByRankTokenAndReadNumber) {
  // Rank 0 has rows 0 to 3, rank 1 none, rank 2 rows 4 to 9.
  const std::vector<int64_t> first = {0, 4, 4, 10};
  const std::vector<int64_t> index = {9, 0, 4,   //
                                      3, 3, 1,   //
                                      5, 8, 3};  //
  const ExchangePlan plan = plan_exchange(index, 3, first);
  EXPECT_THAT(plan.reads_to, ElementsAre(5, 0, 4));
  EXPECT_THAT(plan.position, ElementsAre(1, 3, 4, 5, 8, 0, 2, 6, 7));
  EXPECT_THAT(plan.segments_to, ElementsAre(3, 0, 2));
  EXPECT_THAT(plan.segment_token, ElementsAre(0, 1, 2, 0, 2));
  EXPECT_THAT(plan.segment_reads, ElementsAre(1, 3, 1, 2, 2));
}

TEST(ExchangePlan, ManyRanksGetTheirOwnRows) {
  const std::vector<int64_t> first = equal_parts(100, 30);
  std::vector<int64_t> index(100);
  std::iota(index.begin(), index.end(), 0);  // a token that reads every row
  const ExchangePlan plan = plan_exchange(index, 100, first);
  EXPECT_EQ(plan.position, index);
  for (size_t p = 0; p < 30; ++p) EXPECT_EQ(plan.reads_to[p], first[p + 1] - first[p]) << p;
  EXPECT_THAT(plan.segments_to, testing::Each(1));
}

TEST(ExchangePlan, WithoutTokensNothingGoesAnywhere) {
  const ExchangePlan plan = plan_exchange({}, 3, std::vector<int64_t>{0, 4, 10});
  EXPECT_THAT(plan.reads_to, ElementsAre(0, 0));
  EXPECT_THAT(plan.segments_to, ElementsAre(0, 0));
  EXPECT_THAT(plan.position, IsEmpty());
}

TEST(EqualParts, TheFirstRanksHoldOneRowMore) {
  EXPECT_THAT(equal_parts(10, 4), ElementsAre(0, 3, 6, 8, 10));
  EXPECT_THAT(equal_parts(2, 3), ElementsAre(0, 1, 2, 2));
  EXPECT_THAT(equal_parts(7, 1), ElementsAre(0, 7));
}

}  // namespace
}  // namespace loci
