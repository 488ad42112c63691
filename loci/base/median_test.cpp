#include "loci/base/median.h"

#include <gtest/gtest.h>

#include "tests/temporary_folder.h"

namespace loci {
namespace {

TEST(Median, OfOddAndEvenCounts) {
  EXPECT_EQ(median_of({3, 1, 2}), 2);
  EXPECT_EQ(median_of({4, 1, 2, 3}), 2.5);
  expect_error(ExitCode::bug, "median_of: there must be a value, got none", [] { median_of({}); });
}

}  // namespace
}  // namespace loci
