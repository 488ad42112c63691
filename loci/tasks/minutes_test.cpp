#include "loci/tasks/minutes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMinutesRecipe = R"(
task = "minutes"
[data]
sentences = 6
salient = 2
markers = 4
salient_markers = 1
payloads = 4
noise = 1
noise_words = 3
test_samples = 150
[model]
slots = 2
embedding = 8
width = 16
[train]
batch = 16
precision = "float32"
[optimizer]
learning_rate = 1e-2
beta2 = 0.999
weight_decay = 0
[optimizer.schedule]
warmup = 0
)";
const std::vector<std::string> kMinutesTransformer = {"model.network=transformer", "model.transformer_width=16",
                                                      "model.heads=2"};

class MinutesTaskTest : public TaskTest {
 protected:
  MinutesTaskTest() : TaskTest(kMinutesRecipe) {}
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, {}, checkpoint);
  }
};
const std::vector<std::vector<std::string>> kMinutesArms = {{},
                                                            {"model.memory=none"},
                                                            {"model.memory=attention"},
                                                            {"model.memory=read"},
                                                            {"model.penalty=0"},
                                                            kMinutesTransformer};

TEST_F(MinutesTaskTest, LossIsAFunctionOfStepAndSample) {
  for (const auto& arm : kMinutesArms) {
    const auto task = make(arm);
    const double first = task->loss(0, 0).item<double>(), later = task->loss(7, 0).item<double>();
    EXPECT_NE(first, later);
    EXPECT_EQ(task->loss(0, 0).item<double>(), first);
    auto halves = arm;
    halves.emplace_back("train.accumulation=2");
    const auto parts = make(halves);
    EXPECT_NEAR((parts->loss(7, 0).item<double>() + parts->loss(7, 1).item<double>()) / 2, later, 1e-5);
  }
}

// Of weights 0 every word is the first of equal ones, and slots look at all sentences alike.
TEST_F(MinutesTaskTest, MeasuresAreThoseOfTheTestTexts) {
  const auto task = make();
  {
    const torch::NoGradGuard guard;
    for (auto& parameter : task->module().named_parameters()) parameter.value().zero_();
    task->module().named_parameters()["output_bias"][MinutesOptions::kEnd] = 1;
  }
  const Evaluation ends = evaluate(*task, false);
  EXPECT_EQ(ends.values[0], 0);
  EXPECT_DOUBLE_EQ(ends.values[1], 1.0 / 3);
  EXPECT_NEAR(ends.values[3], 2.0 / 6, 1e-6);
  const double miss = std::log(std::exp(1.0) + 13);  // of 14 words
  EXPECT_NEAR(ends.values[4], miss - 1.0 / 3, 1e-5);
  EXPECT_EQ(ends.details.at("texts"), 150);
  // Equal weights have the first sentence as the greatest; it is salient in a third of the texts.
  const Minutes minutes(dynamic_cast<const MinutesPlan&>(*config_->plan).data.minutes, 0, "minutes.test");
  int64_t first = 0;
  for (int64_t i = 0; i < 150; ++i) {
    std::vector<int64_t> words(18), summary(2);
    bool salient[6];
    minutes.fill(i, 1, words.data(), summary.data(), salient);
    first += salient[0] ? 1 : 0;
  }
  EXPECT_DOUBLE_EQ(ends.values[2], static_cast<double>(first) / 300);
  EXPECT_THAT(task->account(ends, {}).text, testing::HasSubstr("150 test texts (2 of 6 sentences of 3 words"));
}

TEST_F(MinutesTaskTest, LearnsToListThePayloadsWithSlots) {
  const auto task = make();
  const auto optimizers = optimizers_of(*task);
  const Evaluation before = evaluate(*task, false);
  train(*task, *optimizers, 0, 400, 400);
  const Evaluation after = evaluate(*task, false);
  EXPECT_LT(before.values[0], 0.3);
  EXPECT_GT(after.values[0], 0.7) << after.values[4];
  EXPECT_GT(after.values[1], 0.85);
}

TEST_F(MinutesTaskTest, GoesOnBitForBit) {
  for (const auto& arm : {kMinutesArms[0], kMinutesArms[2], kMinutesTransformer}) {
    expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make(arm, checkpoint); });
  }
}

TEST_F(MinutesTaskTest, ThePlannedSizesAreThoseOfTheModel) {
  for (const auto& arm : kMinutesArms) {
    const auto task = make(arm);
    int64_t count = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) count += parameter.value.numel();
    EXPECT_EQ(config_->plan->size(config_->batch(), {}, false).parameters_dense, count);
    const Evaluation evaluation = evaluate(*task, false);
    ASSERT_EQ(evaluation.values.size(), task->measures().size());
    EXPECT_EQ(evaluation.details.at("parameters"), count);
    const bool slots = arm.empty() || arm[0] == "model.memory=read" || arm[0] == "model.penalty=0";
    EXPECT_EQ(std::isnan(evaluation.values[2]), !slots);
    EXPECT_EQ(std::isnan(evaluation.values[3]), !slots);
    EXPECT_EQ(task->infer(0), 100);
    EXPECT_EQ(task->infer(1), 50);
  }
}

TEST_F(MinutesTaskTest, RefusesOptionsThatDoNotFit) {
  expect_error(ExitCode::usage, "data.salient must be at most the 6 sentences, got 7",
               [&] { make({"data.salient=7"}); });
  expect_error(ExitCode::usage, "model.width must be even, got 15", [&] { make({"model.width=15"}); });
  expect_error(ExitCode::usage, "model.slots", [&] { make({"model.memory=none", "model.slots=3"}); });
}

}  // namespace
}  // namespace loci
