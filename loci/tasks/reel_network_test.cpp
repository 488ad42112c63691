#include "loci/tasks/reel_network.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <string>
#include <vector>

#include "loci/train/start_weights.h"
#include "tests/bright_sides.h"
#include "tests/op_harness.h"
#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReelRecipe = R"(
task = "reel_network"
[data]
crop_padding = 0
mirror = false
color = "grey"
[model]
hidden = [40, 20]
[train]
batch = 20
precision = "float32"
[optimizer]
kind = "sgd"
learning_rate = 0.5
weight_decay = 1e-4
clip_norm = 0
[optimizer.schedule]
kind = "constant"
warmup = 0
)";

class ReelTask : public TaskTest {
 protected:
  ReelTask() : TaskTest(kReelRecipe) { write_bright_sides(folder_.path(), 3); }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, folder_.path(), checkpoint);
  }
  double accuracy(const std::vector<std::string>& settings, int64_t steps) {
    const auto task = make(settings);
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, steps, steps);
    return evaluate(*task, false).values[0];
  }

  TemporaryFolder folder_;
};

const std::vector<std::vector<std::string>> kReelNetworks = {
    {},
    {"model.weights=learned", "optimizer.learning_rate=0.05"},
    {"model.choice=sampled"},
    {"model.convolutions=[4,6]", "model.hidden=[20]"},
    {"model.convolutions=[4]", "model.weights=learned", "model.pool_every=1", "optimizer.learning_rate=0.05"}};

TEST_F(ReelTask, LearnsToTellHalvesApart) {
  for (const auto& settings : kReelNetworks) {
    const bool sampled = settings == std::vector<std::string>{"model.choice=sampled"};  // slower: scores start small
    EXPECT_GT(accuracy(settings, sampled ? 400 : 80), 0.9) << ::testing::PrintToString(settings);
  }
}

// One value of each weight: the scores move, and nothing else.
TEST_F(ReelTask, OneReelLearnsNothing) {
  const auto task = make({"model.reels=1"});
  const Evaluation before = evaluate(*task, false);
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 10, 10);
  const Evaluation after = evaluate(*task, false);
  EXPECT_EQ(after.values, before.values);
  EXPECT_EQ(after.values.back(), 0);
}

TEST_F(ReelTask, GoesOnBitForBit) {
  for (const auto& settings : kReelNetworks) {
    SCOPED_TRACE(::testing::PrintToString(settings));
    expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make(settings, checkpoint); });
  }
}

TEST_F(ReelTask, SaysHowManyReelsMoved) {
  const auto task = make();
  EXPECT_EQ(evaluate(*task, false).values.back(), 0);
  EXPECT_EQ(task->measures().back().name, "moved");
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 20, 20);
  const Evaluation evaluation = evaluate(*task, false);
  const auto shares = evaluation.details.at("moved_by_stage").get<std::vector<double>>();
  ASSERT_EQ(shares.size(), 3u);
  const double all = (shares[0] * 64 * 40 + shares[1] * 40 * 20 + shares[2] * 20 * 3) / (64 * 40 + 40 * 20 + 20 * 3);
  EXPECT_NEAR(evaluation.values.back(), all, 1e-12);
  EXPECT_GT(all, 0.01);
  EXPECT_NE(task->account(evaluation, {}).text.find("8 fixed values of each weight; moved by stage:"),
            std::string::npos);
}

TEST_F(ReelTask, FinetuningStartsFromTheWeightsThatWereFound) {
  for (const std::string convolutions : {"[]", "[4]"}) {
    const std::vector<std::string> settings = {"model.convolutions=" + convolutions};
    const auto task = make(settings);
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, 12, 12);
    const Evaluation found = evaluate(*task, false);
    const fs::path checkpoint = checkpoint_of(*task, *optimizers, 12);
    auto learned_settings = settings;
    learned_settings.emplace_back("model.weights=learned");
    const auto learned = make(learned_settings);
    StartWeights(checkpoint, [](const std::string&) {}).copy_into(*learned);
    const Evaluation start = evaluate(*learned, false);
    EXPECT_EQ(start.values[0], found.values[0]);
    EXPECT_EQ(start.values[1], found.values[1]);
    const auto learning = optimizers_of(*learned);
    train(*learned, *learning, 0, 5, 5);
    EXPECT_NE(evaluate(*learned, false).values[1], start.values[1]);
  }
}

// Values are those of the seed that came with the scores, not of the run that reads them.
TEST_F(ReelTask, ACheckpointBringsItsSeed) {
  const auto& plan = [&]() -> const ReelNetworkPlan& {
    make();
    return dynamic_cast<const ReelNetworkPlan&>(*config_->plan);
  }();
  ReelNet first(plan.model_for({8, 8, 1}, 3), 5), other(plan.model_for({8, 8, 1}, 3), 6);
  std::map<std::string, at::Tensor> state;
  for (const auto& parameter : first.named_parameters()) state.emplace(parameter.key(), parameter.value().detach());
  for (const auto& buffer : first.named_buffers()) state.emplace(buffer.key(), buffer.value());
  other.load(state, "file");
  const at::Tensor images = torch::randn({2, 1, 8, 8});
  EXPECT_TRUE(harness::same_bits(other.forward(images), first.forward(images)));
  ReelNetOptions options = plan.model_for({8, 8, 1}, 3);
  options.weights = ReelWeights::learned;
  ReelNet learned(options, 7);
  learned.load(state, "file");
  EXPECT_TRUE(harness::same_bits(learned.forward(images), first.forward(images)));
  state.erase("stage1.product.weight.key");
  expect_error(ExitCode::input, "file: stage1.product.weight must have scores", [&] { learned.load(state, "file"); });
}

TEST_F(ReelTask, ThePlannedSizesAreThoseOfTheModel) {
  for (const auto& settings : kReelNetworks) {
    auto more = settings;
    more.emplace_back("data.size=[8,8]");
    const auto task = make(more);
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    EXPECT_EQ(dynamic_cast<const ReelNetworkPlan&>(*config_->plan).model_for({8, 8, 1}, 3).parameters(), dense);
    EXPECT_EQ(evaluate(*task, false).details.at("parameters"), dense);
  }
}

TEST_F(ReelTask, RefusesWhatCannotBe) {
  expect_error(ExitCode::usage, "model.reels must be", [&] { make({"model.reels=0"}); });
  expect_error(ExitCode::usage, "model.reels must be left out",
               [&] { make({"model.weights=learned", "model.reels=4"}); });
  expect_error(ExitCode::usage, "model.convolutions must leave a pixel behind the max pools",
               [&] { make({"model.convolutions=[2,2,2,2,2,2]", "model.pool_every=1"}); });
  const auto task = make({"optimizer.kind=adamw"});
  expect_error(ExitCode::usage, "optimizer.kind must be \"sgd\" for stage0.weight", [&] { optimizers_of(*task); });
}

}  // namespace
}  // namespace loci
