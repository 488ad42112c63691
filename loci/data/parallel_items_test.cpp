#include "loci/data/parallel_items.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

namespace loci {
namespace {

TEST(ParallelItemsTest, EachItemIsDoneOnce) {
  for (const int64_t items : {0, 1, 1000}) {
    std::vector<std::atomic<int>> done(static_cast<size_t>(items));
    parallel_items(items, [&](int64_t item, int64_t thread) {
      EXPECT_LT(thread, item_threads(items));
      ++done[item];
    });
    for (const auto& count : done) EXPECT_EQ(count, 1);
  }
}

TEST(ParallelItemsTest, TheFirstItemThatFailsIsTheErrorAndNothingIsBegunAfterIt) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::atomic<int64_t> begun = 0;
    try {
      parallel_items(100000, [&](int64_t item, int64_t) {
        ++begun;
        if (item >= 70) throw std::runtime_error(std::to_string(item));
      });
      ADD_FAILURE() << "no error";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "70");
    }
    EXPECT_LE(begun, 71 + item_threads(100000));
  }
}

}  // namespace
}  // namespace loci
