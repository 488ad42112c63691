// Training in random bases (loci/optim/random_bases.h) through a task: from gradients, and from losses, for which the
// trainer evaluates the batch again.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <string>
#include <vector>

#include "loci/base/random.h"
#include "loci/data/image/image_file.h"
#include "tests/image_files.h"
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

// Noise with one half that is brighter: left, right.
void write_sides(const fs::path& folder, int64_t label, int64_t first, int64_t count) {
  constexpr int64_t edge = 8;
  fs::create_directories(folder);
  const CounterRandom random(static_cast<uint64_t>(label), "sides");
  for (int64_t i = first; i < first + count; ++i) {
    Image image{{edge, edge, 1}, {}};
    for (int64_t p = 0; p < edge * edge; ++p) {
      const bool bright = (p % edge < edge / 2) == (label == 0);
      const double noise = random.uniform(static_cast<uint64_t>(i * edge * edge + p));
      image.pixels.push_back(static_cast<uint8_t>(150 * noise + (bright ? 80 : 0)));
    }
    write_png(folder / fmt::format("{}.png", i), image);
  }
}

class RandomBasesTask : public TaskTest {
 protected:
  RandomBasesTask() : TaskTest(kBasesRecipe) {
    for (int64_t label = 0; label < 2; ++label) {
      write_sides(folder_.path() / "train" / fmt::format("class-{}", label), label, 0, 30);
      write_sides(folder_.path() / "test" / fmt::format("class-{}", label), label, 30, 20);
    }
  }
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
