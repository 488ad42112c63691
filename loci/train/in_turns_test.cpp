#include "loci/train/in_turns.h"

#include <gtest/gtest.h>

namespace loci {
namespace {

TEST(InTurns, AMachineThatChangesItsSpeedKeepsTheRatio) {
  int measured = 0;
  double slowness = 1;
  const auto seconds = [&](double work) {
    if (++measured > 7) slowness = 4;  // in the middle of a round
    return work * slowness;
  };
  EXPECT_EQ(ratio_in_turns([&] { return seconds(3); }, [&] { return seconds(2); }, 7), 1.5);
  EXPECT_EQ(measured, 14);
}

TEST(InTurns, ASteadyDriftCancels) {
  double slowness = 1;
  const auto seconds = [&](double work) { return work * (slowness *= 1.1); };
  EXPECT_NEAR(ratio_in_turns([&] { return seconds(3); }, [&] { return seconds(2); }, 10), 1.5, 0.01);
}

}  // namespace
}  // namespace loci
