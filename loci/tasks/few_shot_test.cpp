#include "loci/tasks/few_shot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "loci/base/random.h"
#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFewShotRecipe = R"(
task = "few_shot"
[data]
size = [16, 16]
memory_mib = 1
[episodes]
ways = 4
shots = 3
queries = 2
[test]
ways = 4
shots = 3
queries = 2
tasks = 12
[model]
channels = 8
groups = 2
[subset]
kept = 4
chunk = 3
[train]
batch = 2
precision = "float32"
[optimizer]
learning_rate = 0.01
weight_decay = 0
clip_norm = 0
[optimizer.schedule]
warmup = 0
)";

// Two dark strokes on a bright ground, at places that belong to the character, shifted by a pixel or so.
void write_character(const fs::path& folder, int64_t alphabet, int64_t character, int64_t drawings) {
  constexpr int64_t edge = 16;
  fs::create_directories(folder);
  const CounterRandom random(static_cast<uint64_t>(100 * alphabet + character), "strokes");
  for (int64_t d = 0; d < drawings; ++d) {
    Image image{{edge, edge, 1}, std::vector<uint8_t>(edge * edge, 255)};
    for (uint64_t stroke = 0; stroke < 2; ++stroke) {
      const double angle = 3.14159 * random.uniform(stroke), shift = 8 * random.uniform(10 + stroke) - 4;
      const auto at = static_cast<uint64_t>(100 + 10 * d) + stroke;
      const double x = 8 - shift * std::sin(angle) + 2 * random.uniform(at) - 1;
      const double y = 8 + shift * std::cos(angle) + 2 * random.uniform(at + 5) - 1;
      for (double t = -5; t <= 5; t += 0.25) {
        const auto column = static_cast<int64_t>(x + t * std::cos(angle)),
                   row = static_cast<int64_t>(y + t * std::sin(angle));
        if (row >= 0 && row < edge && column >= 0 && column < edge) image.pixels[row * edge + column] = 0;
      }
    }
    write_png(folder / fmt::format("{}.png", d), image);
  }
}

class FewShotTest : public TaskTest {
 protected:
  FewShotTest() : TaskTest(kFewShotRecipe) {
    for (int64_t alphabet = 0; alphabet < 4; ++alphabet) {
      const char* const set = alphabet < 3 ? "images_background" : "images_evaluation";
      for (int64_t c = 0; c < 6; ++c) {
        write_character(folder_ / set / fmt::format("alphabet{}", alphabet) / fmt::format("character{}", c), alphabet,
                        c, 6);
      }
    }
  }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, folder_.path(), checkpoint);
  }

  TemporaryFolder folder_;
};

TEST_F(FewShotTest, LearnsCharactersOfAlphabetsThatItNeverSaw) {
  for (const char* head : {"prototypical", "mahalanobis"}) {
    const auto task = make({fmt::format("model.head={}", head)});
    const double before = evaluate(*task, false).values[1];
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, 60, 60);
    const Evaluation evaluation = evaluate(*task, false);
    EXPECT_LT(evaluation.values[1], before) << head;
    EXPECT_GT(evaluation.values[0], 0.6) << head;  // by chance 0.25
    const auto& interval = evaluation.details.at("accuracy_interval");
    EXPECT_LT(interval[0].get<double>(), evaluation.values[0]);
    EXPECT_GT(interval[1].get<double>(), evaluation.values[0]);
    EXPECT_EQ(evaluation.details.at("queries"), 12 * 8);
    EXPECT_GE(evaluation.details.at("memory_beyond_start").get<int64_t>(), 0);
  }
}

// The loss is that of all rows, whatever its gradient is made of.
TEST_F(FewShotTest, ASubsetChangesTheGradientAndNotTheLoss) {
  const auto gradient = [&](const std::vector<std::string>& settings) {
    const auto task = make(settings);
    task->module().train();
    const at::Tensor loss = task->loss(3, 0);
    loss.backward();
    return std::pair(loss.item<double>(), task->module().parameters()[0].grad().clone());
  };
  const auto full = gradient({"subset.kept=0"}), all = gradient({"subset.kept=12"}), few = gradient({}),
             bare = gradient({"subset.scale=false"});
  EXPECT_EQ(full.first, all.first);
  EXPECT_TRUE(full.second.equal(all.second));
  EXPECT_NEAR(few.first, full.first, 1e-4);
  EXPECT_FALSE(few.second.allclose(full.second, 1e-2));
  EXPECT_FALSE(few.second.allclose(bare.second, 1e-2));
}

TEST_F(FewShotTest, TestTasksAreTheSameForEverySeedAndWhateverTrains) {
  const auto small = make({"episodes.shots=1", "subset.kept=2"});
  const Evaluation evaluation = evaluate(*small, false);
  EXPECT_FALSE(evaluation.details.contains("memory_beyond_start"));
  TaskInputs inputs;
  inputs.data = folder_.path();
  inputs.seed = 4;
  inputs.batch = config_->batch();
  inputs.progress = &progress_;
  const auto other = config_->plan->make(inputs);
  EXPECT_NE(evaluate(*other, false).values, evaluation.values);
  const at::NoGradGuard guard;
  for (const auto& parameter : small->module().named_parameters()) {
    other->module().named_parameters()[parameter.key()].copy_(parameter.value());
  }
  EXPECT_EQ(evaluate(*other, false).values, evaluation.values);
}

TEST_F(FewShotTest, GoesOnBitForBit) {
  for (const char* head : {"prototypical", "mahalanobis"}) {
    expect_resume_bit_for_bit(
        [&](const fs::path& checkpoint) { return make({fmt::format("model.head={}", head)}, checkpoint); });
  }
}

TEST_F(FewShotTest, ThePlannedSizesAreThoseOfTheModelAndShrinkWithTheSubset) {
  const auto activations = [&](const char* kept) {
    const auto task = make({fmt::format("subset.kept={}", kept)});
    const RunSize size = config_->plan->size(config_->batch(), config_->table_optimizer, false);
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    EXPECT_EQ(size.parameters_dense, dense);
    return size.memory.back().second;
  };
  // 12 support drawings and 8 queries; 4 of them and 8 queries.
  EXPECT_EQ(activations("0") * 12, activations("4") * 20);
}

TEST_F(FewShotTest, RefusesTasksThatCannotBe) {
  expect_error(ExitCode::usage, "subset.kept must be at most the 12 drawings of a support set, got 13",
               [&] { make({"subset.kept=13"}); });
  expect_error(ExitCode::usage, "episodes.ways", [&] { make({"episodes.ways=1"}); });
  expect_error(ExitCode::usage, "data.size must be square where data.turned is true, got 16 x 20",
               [&] { make({"data.size=[16,20]"}); });
  expect_error(ExitCode::input, "test: there must be 7 characters, as many as ways, got 6",
               [&] { make({"test.ways=7"}); });
  expect_error(ExitCode::input,
               "episodes: images_background/alphabet0/character0 must have 7 drawings for 5 shots and 2 queries, got 6",
               [&] { make({"episodes.shots=5"}); });
}

}  // namespace
}  // namespace loci
