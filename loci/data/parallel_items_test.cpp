#include "loci/data/parallel_items.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <stdexcept>
#include <string>

namespace loci {
namespace {

constexpr int64_t kManyItems = 100000;

// The first items wait for each other, so that the threads take the others at the same time.
TEST(ParallelItemsTest, EachItemIsDoneOnce) {
  for (const int64_t items : {int64_t{0}, int64_t{1}, kManyItems}) {
    const int64_t threads = item_threads(items);
    std::latch all_begun(threads);
    std::vector<std::atomic<int>> done(static_cast<size_t>(items));
    parallel_items(items, [&](int64_t item, int64_t thread) {
      if (item < threads) all_begun.arrive_and_wait();
      if (thread >= threads) ADD_FAILURE() << thread;
      ++done[item];
    });
    for (const auto& count : done) ASSERT_EQ(count, 1);
  }
}

// Each item waits for all others, so that every thread has one: fewer threads at once would never end.
TEST(ParallelItemsTest, ThreadsRunAtOnceUnderNumbersOfTheirOwnAndTheCallersIsZero) {
  const int64_t threads = item_threads(kManyItems);
  std::latch all_begun(threads);
  std::vector<std::thread::id> numbered(static_cast<size_t>(threads));
  parallel_items(threads, [&](int64_t, int64_t thread) {
    all_begun.arrive_and_wait();
    EXPECT_EQ(numbered[thread], std::thread::id()) << "a number for two threads";
    numbered[thread] = std::this_thread::get_id();
  });
  EXPECT_EQ(numbered[0], std::this_thread::get_id());
  EXPECT_THAT(numbered, testing::Each(testing::Ne(std::thread::id())));
}

TEST(ParallelItemsTest, TheFirstItemThatFailsIsTheErrorAndNothingIsBegunAfterIt) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::atomic<int64_t> begun = 0;
    try {
      parallel_items(kManyItems, [&](int64_t item, int64_t) {
        ++begun;
        if (item >= 70) throw std::runtime_error(std::to_string(item));
      });
      ADD_FAILURE() << "no error";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "70");
    }
    EXPECT_LE(begun, 71 + item_threads(kManyItems));
  }
}

// In turns, item 0 fails just before the others and just after them.
TEST(ParallelItemsTest, OfItemsThatFailAtOnceTheFirstIsTheError) {
  const int64_t threads = item_threads(kManyItems);
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::latch others_begun(threads - 1), others_go(repeat % 2 == 0 ? 1 : 0);
    try {
      parallel_items(threads, [&](int64_t item, int64_t) {
        if (item == 0) {
          others_begun.wait();
          if (repeat % 2 == 0) others_go.count_down();
        } else {
          others_begun.arrive_and_wait();  // after an error no other item would begin
          others_go.wait();
        }
        throw std::runtime_error(std::to_string(item));
      });
      ADD_FAILURE() << "no error";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "0");
    }
  }
}

}  // namespace
}  // namespace loci
