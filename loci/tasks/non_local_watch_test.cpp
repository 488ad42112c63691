#include "loci/tasks/non_local_watch.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <memory>

namespace loci::non_local_watch_test {
namespace {

std::shared_ptr<NonLocal> small_block() {
  NonLocalOptions options;
  options.channels = 4;
  return std::make_shared<NonLocal>("block", options, 1);
}

// Steps `from` .. `to`: the block gets x in each.
std::vector<TaskEvent> watched(NonLocalWatch& watch, NonLocal& block, int64_t from, int64_t to) {
  torch::manual_seed(1);
  const torch::Tensor x = torch::randn({6, 4, 5, 5});
  std::vector<TaskEvent> all;
  for (int64_t step = from; step < to; ++step) {
    watch.before_step(step);
    block.forward(x);
    for (TaskEvent& event : watch.after_step(step + 1)) all.push_back(std::move(event));
  }
  return all;
}

TEST(NonLocalWatch, LogsEachBlockEveryHundredSteps) {
  const auto block = small_block();
  NonLocalWatch watch({{"layer3.1", block}});
  const auto events = watched(watch, *block, 0, 250);
  ASSERT_EQ(events.size(), 2);
  const nlohmann::json& line = events[1].line;
  EXPECT_EQ(line["kind"], "non_local");
  EXPECT_EQ(line["block"], "layer3.1");
  EXPECT_EQ(line["residual_ratio"], 0);
  EXPECT_GT(line["entropy"], 0.1);
  EXPECT_GT(line["space_distance"], 1);
  EXPECT_EQ(line["time_distance"], 0);
  EXPECT_EQ(events[0].notice, "");
  EXPECT_FALSE(block->kept_input().defined());
}

TEST(NonLocalWatch, WarnsOnceOfABlockThatStaysDead) {
  const auto block = small_block();
  NonLocalWatch watch({{"layer3.1", block}});
  const auto events = watched(watch, *block, 800, 1200);
  ASSERT_EQ(events.size(), 4);
  EXPECT_EQ(events[0].notice, "");
  EXPECT_EQ(events[1].notice, "layer3.1: block still dead: it adds 0.0e+00 of its input after 1000 steps");
  EXPECT_EQ(events[2].notice, "");
  EXPECT_EQ(events[3].notice, "");
  {
    const torch::NoGradGuard guard;
    block->norm.gain.fill_(1);
    block->theta_weight.mul_(1e6);
  }
  const auto collapsed = watched(watch, *block, 1200, 1400);
  ASSERT_EQ(collapsed.size(), 2);
  EXPECT_THAT(collapsed[0].notice, testing::StartsWith("layer3.1: collapsed to one key: "));
  EXPECT_EQ(collapsed[1].notice, "");
}

}  // namespace
}  // namespace loci::non_local_watch_test
