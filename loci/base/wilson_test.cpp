#include "loci/base/wilson.h"

#include <gtest/gtest.h>

namespace loci {
namespace {

TEST(Wilson, KnownIntervals) {
  EXPECT_NEAR(wilson_interval(7, 8).low, 0.529, 5e-4);
  EXPECT_NEAR(wilson_interval(7, 8).high, 0.978, 5e-4);
  EXPECT_EQ(wilson_interval(0, 16).low, 0);
  EXPECT_NEAR(wilson_interval(0, 16).high, 0.194, 5e-4);
}

TEST(Wilson, IsSymmetricAndKnowsNothingWithoutTrials) {
  EXPECT_NEAR(wilson_interval(3, 10).low, 1 - wilson_interval(7, 10).high, 1e-14);
  EXPECT_EQ(wilson_interval(16, 16).high, 1);
  EXPECT_EQ(wilson_interval(0, 0).low, 0);
  EXPECT_EQ(wilson_interval(0, 0).high, 1);
}

}  // namespace
}  // namespace loci
