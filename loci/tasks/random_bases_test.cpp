// Training in random bases (loci/optim/random_bases.h) through a task: from gradients, and from losses, for which the
// trainer evaluates the batch again.
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

constexpr const char* kBasesRecipe = R"(
task = "reel_network"
[data]
crop_padding = 0
mirror = false
color = "grey"
[model]
weights = "learned"
hidden = []
[train]
batch = 20
precision = "float32"
[optimizer]
kind = "random_bases"
learning_rate = 0.5
weight_decay = 0
clip_norm = 0
[optimizer.bases]
directions = 40
[optimizer.schedule]
kind = "constant"
warmup = 0
)";

class RandomBasesTask : public TaskTest {
 protected:
  RandomBasesTask() : TaskTest(kBasesRecipe) { write_bright_sides(folder_.path()); }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings, const fs::path& checkpoint = {}) {
    return make_task(settings, folder_.path(), checkpoint);
  }

  TemporaryFolder folder_;
};

std::string coefficients_from(const char* source) {
  return fmt::format("optimizer.bases.from={}", source);
}

// Losses of weights that are only tried do not count as training images.
TEST_F(RandomBasesTask, LearnsFromGradientsAndFromLosses) {
  for (const char* source : {"gradient", "losses"}) {
    const auto task = make({coefficients_from(source)});
    const auto optimizers = optimizers_of(*task);
    const double before = evaluate(*task, false).values[1];
    train(*task, *optimizers, 0, 60, 60);
    EXPECT_EQ(task->extra_state()[0].second[1].item<int64_t>(), 60 * 20) << source;
    const Evaluation evaluation = evaluate(*task, false);
    EXPECT_GT(evaluation.values[0], 0.9) << source;
    EXPECT_LT(evaluation.values[1], 0.7 * before) << source;
  }
}

// The losses are those of the batch of the step: with short ways along the directions the weights of both ways agree.
TEST_F(RandomBasesTask, LossesOfTheWholeBatchGiveTheStepOfItsGradient) {
  std::vector<at::Tensor> weights;
  for (const char* source : {"gradient", "losses"}) {
    std::vector<std::string> settings = {coefficients_from(source)};
    if (source == std::string("losses")) settings.emplace_back("optimizer.bases.distance=0.01");
    const auto task = make(settings);
    const auto optimizers = optimizers_of(*task);
    const at::Tensor weight = task->dense_parameters()[0].value;
    const at::Tensor before = weight.detach().clone();
    task->module().train();
    ASSERT_TRUE(train_step(*task, *optimizers, 3, 60, 2, false).good);
    weights.push_back((weight.detach() - before).flatten());
  }
  EXPECT_GT(at::cosine_similarity(weights[0], weights[1], 0).item<float>(), 0.9F);
}

TEST_F(RandomBasesTask, GoesOnBitForBit) {
  for (const char* source : {"gradient", "losses"}) {
    const std::vector<std::string> settings = {coefficients_from(source), "model.convolutions=[4]",
                                               "optimizer.bases.directions=10"};
    expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make(settings, checkpoint); });
  }
}

}  // namespace
}  // namespace loci
