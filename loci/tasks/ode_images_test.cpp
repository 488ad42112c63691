#include "loci/tasks/ode_images.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/bright_sides.h"
#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOdeImagesRecipe = R"(
task = "ode_images"
[data]
crop_padding = 0
mirror = false
color = "grey"
[model]
hidden = [4]
[train]
batch = 20
precision = "float32"
[optimizer]
learning_rate = 0.02
weight_decay = 0
clip_norm = 0
[optimizer.schedule]
warmup = 0
)";

class OdeImagesTest : public TaskTest {
 protected:
  OdeImagesTest() : TaskTest(kOdeImagesRecipe) { write_bright_sides(folder_.path()); }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, folder_.path(), checkpoint);
  }

  TemporaryFolder folder_;
};

const std::vector<std::vector<std::string>> kOdeImageArms = {
    {},
    {"model.start=zeros", "model.added=2", "model.solver.method=dopri5"},
    {"model.start=learned", "model.added=1", "model.variance=chebyshev", "model.gradient.kind=adjoint"},
    {"model.order=2", "model.depth_kind=own", "model.variance=fourier", "model.input_pool=1"}};

TEST_F(OdeImagesTest, LearnsToTellSidesApartAndCountsEvaluations) {
  const auto task = make();
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 40, 40);
  const Evaluation evaluation = evaluate(*task, false);
  EXPECT_GT(evaluation.values[0], 0.9);
  EXPECT_EQ(evaluation.values.back(), 40);
  EXPECT_EQ(evaluation.values.size(), task->measures().size());
  EXPECT_EQ(evaluation.details.at("images"), 40);
  EXPECT_EQ(task->infer(0), 40);
}

TEST_F(OdeImagesTest, GoesOnBitForBit) {
  for (const auto& settings : kOdeImageArms) {
    SCOPED_TRACE(testing::PrintToString(settings));
    expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make(settings, checkpoint); });
  }
}

// Sizes are planned for ten classes.
TEST_F(OdeImagesTest, ThePlannedSizesAreThoseOfTheModel) {
  for (auto settings : kOdeImageArms) {
    settings.emplace_back("data.size=[8,8]");
    SCOPED_TRACE(testing::PrintToString(settings));
    const auto task = make(settings);
    int64_t dense = 0, of_class = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) {
      dense += parameter.value.numel();
      if (parameter.name.starts_with("head_")) of_class += parameter.value.numel() / 2;
    }
    EXPECT_EQ(config_->size().parameters_dense, dense + 8 * of_class);
  }
}

TEST_F(OdeImagesTest, RefusesMapsThatPoolingLeavesEmpty) {
  expect_error(ExitCode::usage, "model.input_pool must leave maps of at least 3 x 3, got 2 x 2",
               [&] { make({"data.size=[8,8]", "model.input_pool=4", "model.output_pool=3"}); });
}

}  // namespace
}  // namespace loci
