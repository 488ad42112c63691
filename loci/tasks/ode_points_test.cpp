#include "loci/tasks/ode_points.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOdeRecipe = R"(
task = "ode_points"
[data]
test_samples = 300
[model]
hidden = [8]
[model.solver]
method = "rk4"
steps = 10
[train]
batch = 64
precision = "float32"
[optimizer]
learning_rate = 1e-2
beta2 = 0.999
weight_decay = 0
clip_norm = 0
[optimizer.schedule]
warmup = 0
)";

// Networks that use every knob.
const std::vector<std::vector<std::string>> kOdeArms = {
    {},
    {"data.set=reflection", "model.start=zeros", "model.added=1"},
    {"model.variance=concat", "model.start=learned", "model.added=2", "model.gradient.kind=adjoint"},
    {"model.variance=fourier", "model.depth_kind=own", "model.order=2", "model.gradient.kind=checkpoints"},
    {"model.variance=chebyshev", "model.data_control=true", "model.solver.method=dopri5"},
    {"model.variance=pieces", "model.hidden=[4,3]", "model.activation=softplus", "data.set=reflection"}};

class OdePointsTaskTest : public TaskTest {
 protected:
  OdePointsTaskTest() : TaskTest(kOdeRecipe) {}
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, {}, checkpoint);
  }
};

// A flow of the line rises: with a step control that keeps it one, nothing below 1/3 can be learned. One number more,
// or a field that sees the input, and it can.
TEST_F(OdePointsTaskTest, OnlySomeReflectTheLine) {
  const auto error_of = [&](std::vector<std::string> settings) {
    for (const char* more : {"data.set=reflection", "model.solver.method=dopri5"}) settings.emplace_back(more);
    const auto task = make(settings);
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, 300, 300);
    return evaluate(*task, false).values[0];
  };
  EXPECT_GT(error_of({}), 0.3);
  EXPECT_GT(error_of({"model.variance=concat"}), 0.3);
  EXPECT_LT(error_of({"model.start=zeros", "model.added=1"}), 0.03);
  EXPECT_LT(error_of({"model.data_control=true"}), 0.03);
}

TEST_F(OdePointsTaskTest, MeasuresAreThoseOfTheTestSamples) {
  const auto task = make({"data.set=reflection"});
  {
    const torch::NoGradGuard guard;
    for (const at::Tensor& parameter : task->module().parameters()) parameter.zero_();
  }
  std::vector<float> x(300);
  OdePoints(OdeSet::reflection, 0, "ode_points.test").fill(0, 300, x.data(), nullptr);
  double square = 0;
  for (const double one : x) square += 4 * one * one / 300;  // y = x
  const Evaluation evaluation = evaluate(*task, false);
  EXPECT_NEAR(evaluation.values[0], square, 1e-6);
  EXPECT_EQ(evaluation.values[1], 40);
  const auto annuli = make();
  {
    const torch::NoGradGuard guard;
    for (const at::Tensor& parameter : annuli->module().parameters()) parameter.zero_();
  }
  const Evaluation even = evaluate(*annuli, false);
  EXPECT_NEAR(even.values[0], 0.5, 0.1);
  EXPECT_NEAR(even.values[1], std::log(2.0), 1e-6);
  EXPECT_EQ(even.values[2], 40);
  EXPECT_EQ(even.values.size(), annuli->measures().size());
}

TEST_F(OdePointsTaskTest, TrainingCountsEvaluationsSinceTheLastLine) {
  const auto task = make();
  task->loss(0, 0);
  task->loss(1, 0);
  EXPECT_EQ(task->training_measures(true).at("evaluations"), 40);
  EXPECT_TRUE(task->training_measures(true).at("evaluations").is_null());
}

TEST_F(OdePointsTaskTest, GoesOnBitForBit) {
  for (const auto& settings : kOdeArms) {
    SCOPED_TRACE(testing::PrintToString(settings));
    expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make(settings, checkpoint); });
  }
}

TEST_F(OdePointsTaskTest, ThePlannedSizesAreThoseOfTheModel) {
  for (const auto& settings : kOdeArms) {
    SCOPED_TRACE(testing::PrintToString(settings));
    const auto task = make(settings);
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    EXPECT_EQ(config_->size().parameters_dense, dense);
    EXPECT_EQ(evaluate(*task, false).details.at("parameters"), dense);
    EXPECT_EQ(task->infer(0), 256);
    EXPECT_EQ(task->infer(1), 44);
  }
}

TEST_F(OdePointsTaskTest, AFlowBeginsAtTheSamples) {
  for (const auto& settings : kOdeArms) {
    SCOPED_TRACE(testing::PrintToString(settings));
    const auto task = make(settings);
    const Evaluation evaluation = evaluate(*task, false);
    const nlohmann::json flow = account_of(*task, evaluation, {.pictures = 3}, false).json.at("flow");
    ASSERT_EQ(flow.at("states").size(), 61);
    const auto& plan = dynamic_cast<const OdePointsPlan&>(*config_->plan);
    const auto D = static_cast<size_t>(OdePoints::dimensions(plan.data.set));
    std::vector<float> x(3 * D);
    std::vector<int64_t> labels(3);
    OdePoints(plan.data.set, 0, "ode_points.test").fill(0, 3, x.data(), labels.data());
    const bool learned = plan.model.block.start == OdeStart::learned;
    for (size_t i = 0; i < 3; ++i) {
      ASSERT_EQ(flow.at("states")[0][i].size(), D);
      if (!learned) {
        EXPECT_EQ(flow.at("states")[0][i][0], x[i * D]);
      }
      if (D == 2) {
        EXPECT_EQ(flow.at("labels")[i], labels[i]);
      }
    }
    EXPECT_EQ(flow.at("depth").size(), 3);
  }
  const auto task = make();
  expect_error(ExitCode::usage, "--pictures: must be at most the 300 test samples, got 301",
               [&] { account_of(*task, evaluate(*task, false), {.pictures = 301}, false); });
}

TEST_F(OdePointsTaskTest, RefusesWhatDoesNotFit) {
  expect_error(ExitCode::usage, "depth must be a number that is not 0, got 0", [&] { make({"model.depth=0"}); });
  expect_error(ExitCode::usage, "added must be at least 1", [&] { make({"model.start=zeros"}); });
  expect_error(ExitCode::usage, "steps must be a multiple of the 5 pieces, got 11",
               [&] { make({"model.variance=pieces", "model.solver.steps=11"}); });
  expect_error(ExitCode::usage, "model.solver.rtol", [&] { make({"model.solver.rtol=0.1"}); });
}

// A field that grows beyond all numbers ends the run with the status for it.
TEST_F(OdePointsTaskTest, AFieldWithoutNumbersIsSaid) {
  const auto task = make({"model.solver.method=dopri5"});
  {
    const torch::NoGradGuard guard;
    for (const at::Tensor& parameter : task->module().parameters()) parameter.fill_(std::nan(""));
  }
  expect_error(ExitCode::numbers, "ode: the field must give finite numbers, got NaN or infinity at s = 0",
               [&] { task->loss(0, 0); });
}

}  // namespace
}  // namespace loci
