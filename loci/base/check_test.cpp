#include "loci/base/check.h"

#include <gtest/gtest.h>

#include <limits>

namespace loci {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();

TEST(Fail, SaysWhoWhatWasExpectedAndWhatCame) {
  try {
    fail(ExitCode::input, "table_read", "index must be int64", "Int");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "table_read: index must be int64, got Int");
    EXPECT_EQ(error.code(), ExitCode::input);
  }
}

TEST(CheckedProduct, RefusesOverflowAndNegativeSizes) {
  EXPECT_EQ(checked_product("a", "bytes", 3, 5), 15);
  EXPECT_EQ(checked_product("a", "bytes", kLargest, 1), kLargest);
  EXPECT_EQ(checked_product("a", "bytes", kLargest, 0), 0);
  EXPECT_THROW(checked_product("a", "bytes", kLargest, 2), Error);
  EXPECT_THROW(checked_product("a", "bytes", int64_t{1} << 32, int64_t{1} << 31), Error);
  EXPECT_THROW(checked_product("a", "bytes", -1, 2), Error);
  EXPECT_THROW(checked_product("a", "bytes", 2, -1), Error);
}

TEST(CheckedSum, RefusesOverflowAndNegativeSizes) {
  EXPECT_EQ(checked_sum("a", "bytes", kLargest - 1, 1), kLargest);
  EXPECT_THROW(checked_sum("a", "bytes", kLargest, 1), Error);
  EXPECT_THROW(checked_sum("a", "bytes", -1, 1), Error);
  EXPECT_THROW(checked_sum("a", "bytes", 1, -1), Error);
}

}  // namespace
}  // namespace loci
