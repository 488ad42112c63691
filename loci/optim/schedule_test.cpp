#include "loci/optim/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "loci/base/check.h"
#include "loci/base/config.h"

namespace loci {
namespace {

TEST(Schedule, CosineFallsToTheFinalShareAfterALinearWarmUp) {
  const ScheduleOptions options{.warmup = 4, .final_share = 0.2};
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

TEST(Schedule, CosineOfARunNoLongerThanTheWarmUpIsDefined) {
  EXPECT_DOUBLE_EQ(schedule_factor({.warmup = 50}, 4, 5), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor({.warmup = 0}, 0, 1), 0.1);  // the last step
  EXPECT_DOUBLE_EQ(schedule_factor({.warmup = 4}, 4, 5), 0.1);
}

TEST(Schedule, ConstantStays) {
  const ScheduleOptions options{.kind = ScheduleKind::constant, .warmup = 2};
  EXPECT_DOUBLE_EQ(schedule_factor(options, 0, 10), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 2, 10), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 9, 10), 1);
}

TEST(Schedule, LinearStaysAndThenFallsToZero) {
  const ScheduleOptions options{.kind = ScheduleKind::linear, .warmup = 2, .fall = 0.3};
  EXPECT_DOUBLE_EQ(schedule_factor(options, 0, 100), 0.5);  // warm-up
  EXPECT_DOUBLE_EQ(schedule_factor(options, 2, 100), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 70, 100), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 71, 100), 29.0 / 30);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 85, 100), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 99, 100), 1.0 / 30);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 100, 100), 0);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 1000, 100), 0);
  const ScheduleOptions whole{.kind = ScheduleKind::linear, .warmup = 0, .fall = 1};
  EXPECT_DOUBLE_EQ(schedule_factor(whole, 0, 4), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(whole, 3, 4), 0.25);
  const ScheduleOptions never{.kind = ScheduleKind::linear, .warmup = 0, .fall = 0};
  EXPECT_DOUBLE_EQ(schedule_factor(never, 3, 4), 1);
}

TEST(Schedule, StepFallsAtMultiplesOfEvery) {
  const ScheduleOptions options{.kind = ScheduleKind::step, .warmup = 2, .factor = 0.5, .every = 10};
  EXPECT_DOUBLE_EQ(schedule_factor(options, 0, 100), 0.5);  // warm-up
  EXPECT_DOUBLE_EQ(schedule_factor(options, 9, 100), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 10, 100), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 35, 100), 0.125);
}

TEST(Schedule, MultiStepFallsAtTheNamedSteps) {
  const ScheduleOptions options{.kind = ScheduleKind::multi_step, .warmup = 0, .factor = 0.1, .at = {30, 60, 90}};
  EXPECT_DOUBLE_EQ(schedule_factor(options, 29, 100), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 30, 100), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 60, 100), 0.1 * 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 1000, 100), std::pow(0.1, 3));
}

TEST(Schedule, WarmRestartsAreRoundsThatGrow) {
  const ScheduleOptions options{
      .kind = ScheduleKind::warm_restarts, .warmup = 5, .final_share = 0.1, .period = 10, .growth = 2};
  const auto cosine = [](double share) { return 0.1 + 0.9 * 0.5 * (1 + std::cos(std::numbers::pi * share)); };
  EXPECT_DOUBLE_EQ(schedule_factor(options, 4, 1000), 1);  // warm-up
  EXPECT_DOUBLE_EQ(schedule_factor(options, 5, 1000), 1);  // rounds of 10 from step 5, 20 from 15, 40 from 35
  EXPECT_DOUBLE_EQ(schedule_factor(options, 14, 1000), cosine(0.9));
  EXPECT_DOUBLE_EQ(schedule_factor(options, 15, 1000), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 25, 1000), cosine(0.5));
  EXPECT_DOUBLE_EQ(schedule_factor(options, 34, 1000), cosine(0.95));
  EXPECT_DOUBLE_EQ(schedule_factor(options, 35, 1000), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(options, 45, 1000), cosine(0.25));
  const ScheduleOptions even{.kind = ScheduleKind::warm_restarts, .warmup = 0, .final_share = 0.1, .period = 10};
  EXPECT_DOUBLE_EQ(schedule_factor(even, 1'000'000'000'000'003, 1000), cosine(0.3));
  const ScheduleOptions large{
      .kind = ScheduleKind::warm_restarts, .warmup = 0, .period = int64_t{1} << 40, .growth = 1000};
  EXPECT_LE(schedule_factor(large, int64_t{1} << 62, 1000), 1);  // the next round's length would overflow
}

ScheduleOptions read_schedule(const std::string& text) {
  struct Optimizer {
    ScheduleOptions schedule;
    void fields(ConfigFields& f) { f.section("schedule", schedule); }
  };
  struct Recipe {
    Optimizer optimizer;
    void fields(ConfigFields& f) { f.section("optimizer", optimizer); }
  } recipe;
  Config::from_text("[optimizer.schedule]\n" + text, "r.toml").read(recipe);
  recipe.optimizer.schedule.check();
  return recipe.optimizer.schedule;
}

std::string refusal_of(const std::string& text) {
  try {
    read_schedule(text);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
}

TEST(Schedule, TakesTheKeysOfItsKindAlone) {
  EXPECT_EQ(read_schedule("kind = \"multi_step\"\nat = [3, 9]").at, (std::vector<int64_t>{3, 9}));
  EXPECT_EQ(read_schedule("warmup = 7").warmup, 7);
  EXPECT_EQ(read_schedule("kind = \"step\"\nevery = 1e3").every, 1000);
  EXPECT_THAT(refusal_of("kind = \"square\""), testing::HasSubstr("kind must be one of \"constant\", \"cosine\""));
  EXPECT_EQ(read_schedule("kind = \"linear\"\nfall = 0.5").fall, 0.5);
  EXPECT_THAT(refusal_of("final_share = 2.0"), testing::HasSubstr("final_share must be a number from 0 to 1"));
  for (const auto& [kind, key] : std::vector<std::pair<std::string, std::string>>{{"constant", "final_share = 0.1"},
                                                                                  {"cosine", "factor = 0.1"},
                                                                                  {"linear", "final_share = 0.1"},
                                                                                  {"cosine", "fall = 0.1"},
                                                                                  {"multi_step", "every = 5"},
                                                                                  {"step", "at = [5]"},
                                                                                  {"step", "period = 5"},
                                                                                  {"cosine", "growth = 2"}}) {
    EXPECT_THAT(refusal_of("kind = \"" + kind + "\"\n" + key),
                testing::HasSubstr("must be left out, for it has an effect only where optimizer.schedule.kind is"))
        << kind << " " << key;
  }
}

TEST(Schedule, StepsOfTheFallsAscend) {
  EXPECT_THAT(refusal_of("kind = \"multi_step\""), testing::HasSubstr("must be ascending steps, got []"));
  EXPECT_THAT(refusal_of("kind = \"multi_step\"\nat = [3, 3]"), testing::HasSubstr("got [3, 3]"));
}

}  // namespace
}  // namespace loci
