#include "loci/tasks/shapes_keypoints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kShapesRecipe = R"(
task = "shapes_keypoints"
[data]
test_images = 7
[model]
width = 4
pyramid_width = 8
[train]
batch = 4
precision = "float32"
[optimizer]
learning_rate = 2e-3
weight_decay = 1e-4
[optimizer.schedule]
kind = "linear"
warmup = 0
)";
const std::vector<std::string> kShapesBody = {"main:model.non_local.blocks=[0,0,1,0]", "main:model.non_local.form=dot"};
const std::vector<std::string> kShapesHead = {"main:model.head_non_local.pool=before"};
const std::vector<std::string> kShapesResidual = {"model.extra_blocks=[0,0,1,0]"};

class ShapesKeypointsTaskTest : public TaskTest {
 protected:
  ShapesKeypointsTaskTest() : TaskTest(kShapesRecipe) {}
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, {}, checkpoint);
  }
};

TEST_F(ShapesKeypointsTaskTest, LossIsAFunctionOfStepAndImage) {
  const auto task = make();
  task->module().eval();
  const double first = task->loss(0, 0).item<double>();
  EXPECT_NE(first, task->loss(7, 0).item<double>());
  EXPECT_EQ(first, task->loss(0, 0).item<double>());
  const auto parts = make({"train.accumulation=2"});
  parts->module().eval();
  EXPECT_NE(parts->loss(0, 0).item<double>(), parts->loss(0, 1).item<double>());
}

TEST_F(ShapesKeypointsTaskTest, TheTestIsTheSameForEverySeed) {
  const auto task = make();
  const Evaluation evaluation = evaluate(*task, false);
  ASSERT_EQ(evaluation.values.size(), task->measures().size());
  const ShapesKeypoints test({}, 0, "shapes_keypoints.test");
  int64_t instances = 0;
  for (int64_t i = 0; i < 7; ++i) instances += std::ssize(test.scene(i).shapes);
  EXPECT_EQ(evaluation.details.at("images"), 7);
  EXPECT_EQ(evaluation.details.at("instances"), instances);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(evaluation.values[i] >= 0 && evaluation.values[i] <= 1);
  const Account account = task->account(evaluation, {});
  EXPECT_THAT(account.text, testing::HasSubstr(fmt::format("7 test images with {} instances", instances)));
  EXPECT_THAT(account.text, testing::HasSubstr("keypoint  AP at 0.50"));
}

TEST_F(ShapesKeypointsTaskTest, GoesOnBitForBit) {
  for (const auto& settings : {std::vector<std::string>{}, kShapesBody, kShapesHead, kShapesResidual}) {
    SCOPED_TRACE(settings.empty() ? "" : settings[0]);
    expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make(settings, checkpoint); });
  }
}

TEST_F(ShapesKeypointsTaskTest, ACheckpointIsOfItsDataAndServesAlone) {
  const auto task = make(kShapesBody);
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 2, 2);
  const CheckpointReader checkpoint(checkpoint_of(*task, *optimizers, 2));
  const auto& plan = dynamic_cast<const ShapesKeypointsPlan&>(*config_->plan);
  const LoadedCenterDetector loaded = load_center_detector(plan, 3, checkpoint);
  EXPECT_FALSE(loaded.model->is_training());
  EXPECT_EQ(loaded.input.shape, (ImageShape{128, 128, 3}));
  task->module().eval();
  const torch::NoGradGuard guard;
  const at::Tensor x = torch::randn({1, 3, 128, 128});
  EXPECT_TRUE(
      torch::equal(dynamic_cast<CenterDetector&>(task->module()).forward(x).heat, loaded.model->forward(x).heat));

  const auto other = make({"data.noise=0.3"});
  const auto other_optimizers = optimizers_of(*other);
  expect_error(ExitCode::input, "noise 0.3", [&] { load_checkpoint(checkpoint, *other, *other_optimizers); });
}

TEST_F(ShapesKeypointsTaskTest, ThePlannedSizesAreThoseOfTheModel) {
  for (const auto& settings : {std::vector<std::string>{}, kShapesBody, kShapesHead, kShapesResidual}) {
    const auto task = make(settings);
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    const RunSize size = config_->size();
    EXPECT_EQ(size.parameters_dense, dense);
    EXPECT_EQ(size.units_per_step, 4);
    EXPECT_GT(size.multiply_adds, 1'000'000);
  }
}

// Every hundred steps a line for each block, by its name.
TEST_F(ShapesKeypointsTaskTest, ItsBlocksAreWatched) {
  const auto task = make({"main:model.non_local.blocks=[0,0,1,0]", "main:model.head_non_local.pool=before"});
  const auto optimizers = optimizers_of(*task);
  task->module().train();
  task->before_step(99, *optimizers);
  task->loss(99, 0);
  std::vector<std::string> names;
  for (const TaskEvent& event : task->after_step({100, 200, 1.0}, *optimizers)) {
    if (event.line.value("kind", "") == "non_local") names.push_back(event.line.at("block").get<std::string>());
  }
  EXPECT_THAT(names, testing::ElementsAre("backbone.body.layer3.0", "head.keypoints"));
}

TEST_F(ShapesKeypointsTaskTest, ALossFallsInAFewSteps) {
  const auto task = make({"optimizer.learning_rate=5e-3"});
  const auto optimizers = optimizers_of(*task);
  const double before = evaluate(*task, false).values[3];
  train(*task, *optimizers, 0, 40, 40);
  EXPECT_LT(evaluate(*task, false).values[3], 0.7 * before);
}

// Lengths by hand: five pixels out, three in, the rest out.
TEST(ShapesKeypointsJson, AMaskIsRunLengths) {
  Detection detection;
  detection.score = 0.5;
  detection.instance.label = 1;
  detection.instance.box = {1, 2, 3, 4};
  detection.instance.mask = PixelMask(128 * 128);
  for (const int64_t pixel : {5, 6, 7}) detection.instance.mask.add(pixel);
  const nlohmann::json json = detection_json(detection);
  EXPECT_EQ(json.at("mask"), nlohmann::json({5, 3, 128 * 128 - 8}));
  EXPECT_EQ(json.at("class"), "kite");
  EXPECT_EQ(json.at("box"), nlohmann::json({1.0, 2.0, 3.0, 4.0}));
  EXPECT_EQ(json.at("keypoints").size(), 4u);
  detection.instance.mask.add(0);
  EXPECT_EQ(detection_json(detection).at("mask"), nlohmann::json({0, 1, 4, 3, 128 * 128 - 8}));
}

}  // namespace
}  // namespace loci
