#include "loci/data/epoch_order.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "loci/base/check.h"

namespace loci {
namespace {

TEST(EpochOrderTest, VisitsEachItemOnceAnEpochInAnotherOrderEachTime) {
  for (int64_t items : {1, 2, 3, 7, 64, 1000}) {
    const EpochOrder order(items, 5);
    std::set<std::vector<int64_t>> orders;
    for (int64_t epoch = 0; epoch < 6; ++epoch) {
      std::vector<int64_t> visited;
      for (int64_t i = 0; i < items; ++i) {
        const EpochOrder::Visit visit = order.at(epoch * items + i);
        EXPECT_EQ(visit.epoch, epoch);
        visited.push_back(visit.item);
      }
      EXPECT_EQ(std::set<int64_t>(visited.begin(), visited.end()).size(), visited.size()) << items << " items";
      for (int64_t item : visited) EXPECT_TRUE(item >= 0 && item < items) << item << " of " << items;
      orders.insert(visited);
    }
    if (items >= 64) {
      EXPECT_EQ(orders.size(), 6u);
    }
  }
}

TEST(EpochOrderTest, IsTheSameFromAnyPosition) {
  const EpochOrder order(1000, 9);
  std::vector<int64_t> forwards, backwards;
  for (int64_t position = 0; position < 3000; ++position) forwards.push_back(order.at(position).item);
  for (int64_t position = 2999; position >= 0; --position) {
    backwards.insert(backwards.begin(), EpochOrder(1000, 9).at(position).item);
  }
  EXPECT_EQ(forwards, backwards);
}

TEST(EpochOrderTest, DiffersFromSeedToSeed) {
  std::set<std::vector<int64_t>> orders;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<int64_t> visited;
    for (int64_t i = 0; i < 100; ++i) visited.push_back(EpochOrder(100, seed).at(i).item);
    orders.insert(visited);
  }
  EXPECT_EQ(orders.size(), 20u);
}

TEST(EpochOrderTest, TakesMoreItemsThanMemoryCouldHold) {
  const EpochOrder order(int64_t{1} << 60, 1);
  EXPECT_NE(order.at(0).item, order.at(1).item);
  EXPECT_EQ(order.at((int64_t{1} << 60) + 5).epoch, 1);
}

TEST(EpochOrderTest, RefusesNoItemsAndNegativePositions) {
  for (int64_t items : {int64_t{0}, int64_t{-1}}) {
    try {
      EpochOrder(items, 1);
      FAIL() << "no error with " << items;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
    }
  }
  try {
    EpochOrder(3, 1).at(-1);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bug);
    EXPECT_STREQ(error.what(), "EpochOrder: position must be at least 0, got -1");
  }
}

}  // namespace
}  // namespace loci
