#include "loci/optim/schedule.h"

#include <gtest/gtest.h>

namespace loci {
namespace {

TEST(Schedule, WarmsUpLinearlyThenFallsToTheFinalShareByACosine) {
  const ScheduleOptions options{.warmup = 4, .decay = "cosine", .final_share = 0.2};
  EXPECT_DOUBLE_EQ(schedule_factor(options, 0, 105), 0.25);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 3, 105), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 4, 105), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 54, 105), 0.6);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 104, 105), 0.2);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 1000, 105), 0.2);
  for (int64_t step = 4; step < 104; ++step) {
    EXPECT_GE(schedule_factor(options, step, 105), schedule_factor(options, step + 1, 105));
  }
}

TEST(Schedule, CanStayConstant) {
  const ScheduleOptions options{.warmup = 2, .decay = "constant", .final_share = 0};
  EXPECT_DOUBLE_EQ(schedule_factor(options, 0, 10), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 2, 10), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 9, 10), 1);
}

TEST(Schedule, RunsShorterThanTheWarmUpAndRunsOfOneStepAreDefined) {
  EXPECT_DOUBLE_EQ(schedule_factor({.warmup = 50}, 4, 5), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor({.warmup = 0}, 0, 1), 0.1);  // the last step
  EXPECT_DOUBLE_EQ(schedule_factor({.warmup = 4}, 4, 5), 0.1);
}

TEST(Schedule, ReadsItsWordsFromAConfiguration) {
  ScheduleOptions options;
  Config::from_text("warmup = 7\ndecay = \"constant\"\n").read(options);
  EXPECT_EQ(options.warmup, 7);
  EXPECT_EQ(options.decay, "constant");
  EXPECT_THROW(Config::from_text("decay = \"linear\"\n").read(options), Error);
  EXPECT_THROW(Config::from_text("final_share = 2.0\n").read(options), Error);
}

}  // namespace
}  // namespace loci
