#include "loci/table/usage_alarm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

namespace loci {
namespace {

std::vector<UsageLevel> levels(const std::vector<std::pair<double, double>>& checks) {
  UsageAlarm alarm;
  std::vector<UsageLevel> result;
  for (const auto& [used, expected] : checks) {
    alarm.check(used, expected);
    result.push_back(alarm.level);
  }
  return result;
}

TEST(UsageAlarm, IsACollapseAtTheSecondLowCheckRunning) {
  using enum UsageLevel;
  EXPECT_EQ(levels({{0.05, 1}, {0.05, 1}, {0.05, 1}, {0.2, 1}, {0.05, 1}}),
            (std::vector{few, collapsed, collapsed, few, few}));
  EXPECT_EQ(levels({{0.05, 1}, {0.6, 1}, {0.05, 1}, {0.5, 1}, {0.49, 1}}), (std::vector{few, well, few, well, few}));
}

TEST(UsageAlarm, TooFewReadsAreNoAlarm) {
  using enum UsageLevel;
  // Half a read a row, each on a row of its own; no read at all.
  EXPECT_EQ(levels({{0.01, expected_usage(10, 1000)}, {0.01, expected_usage(10, 1000)}, {0, expected_usage(0, 1000)}}),
            (std::vector{well, well, well}));
  EXPECT_DOUBLE_EQ(expected_usage(500, 1000), 1 - std::exp(-0.5));
}

}  // namespace
}  // namespace loci
