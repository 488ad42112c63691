#include "loci/tasks/video_classification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "loci/base/random.h"
#include "loci/nn/relation/non_local.h"
#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A C2D network without pooling over time; arms add kernels over frames.
constexpr const char* kVideoRecipe = R"(
task = "video_classification"
[data]
frames = 6
crop_padding = 1
mirror = false
[model]
bottlenecks = [1, 1, 1, 1]
width = 4
first_kernel = 3
time_halvings = 0
dropout = 0.2
[train]
batch = 8
precision = "float32"
[optimizer]
kind = "sgd"
learning_rate = 0.05
momentum = 0.9
weight_decay = 1e-4
clip_norm = 0
[optimizer.schedule]
warmup = 0
)";

// A bar of two columns that moves one column a frame, on noise; each clip stands in the other class with its frames in
// the reverse order.
void write_moving_bars(const fs::path& part, int64_t clips, uint64_t seed) {
  constexpr int64_t kSide = 16, kFrames = 8;
  const CounterRandom random(seed, "moving bars");
  for (int64_t clip = 0; clip < clips; ++clip) {
    const int64_t start = clip % 5;
    for (int64_t t = 0; t < kFrames; ++t) {
      Image image{{kSide, kSide, 3}, {}};
      for (int64_t p = 0; p < kSide * kSide * 3; ++p) {
        const int64_t x = p / 3 % kSide;
        const bool bright = x == start + t || x == start + t + 1;
        const auto at = static_cast<uint64_t>((clip * kFrames + t) * kSide * kSide * 3 + p);
        image.pixels.push_back(static_cast<uint8_t>(40 + 60 * random.uniform(at) + (bright ? 120 : 0)));
      }
      for (const bool turned : {false, true}) {
        const fs::path folder = part / (turned ? "left" : "right") / fmt::format("clip{}", clip);
        fs::create_directories(folder);
        write_png(folder / fmt::format("{:06}.png", turned ? kFrames - t : t + 1), image);
      }
    }
  }
}

class VideoTask : public TaskTest {
 protected:
  VideoTask() : TaskTest(kVideoRecipe) {}
  static void SetUpTestSuite() {
    clips_ = std::make_unique<TemporaryFolder>();
    write_moving_bars(*clips_ / "train", 15, 1);
    write_moving_bars(*clips_ / "test", 10, 2);
  }
  static void TearDownTestSuite() { clips_.reset(); }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& data = {},
                             const fs::path& checkpoint = {}) {
    return make_task(settings, data.empty() ? clips_->path() : data, checkpoint);
  }

  static std::unique_ptr<TemporaryFolder> clips_;  // of all tests
};
std::unique_ptr<TemporaryFolder> VideoTask::clips_;

TEST_F(VideoTask, LossIsAFunctionOfStepAndSeed) {
  const auto task = make();
  const double first = task->loss(0, 0).item<double>();
  EXPECT_NE(first, task->loss(7, 0).item<double>());
  EXPECT_EQ(task->loss(0, 0).item<double>(), first);
  const double later = task->loss(7, 0).item<double>();
  EXPECT_EQ(make()->loss(7, 0).item<double>(), later);
}

// The order of frames decides: kernels over frames learn it, frames alone cannot, even with a block over all of them. A
// test clip and its reverse get one answer, so that exactly half of the answers are right.
TEST_F(VideoTask, OnlyKernelsOverFramesLearnTheirOrder) {
  const auto task = make({"model.inflation=second"});
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 60, 60);
  EXPECT_GT(task->training_measures(true).at("train_accuracy").get<double>(), 0.6);  // of all steps
  const Evaluation evaluation = evaluate(*task, false);
  EXPECT_GT(evaluation.values[0], 0.9);
  EXPECT_LT(evaluation.values[1], 0.5);
  EXPECT_EQ(evaluation.details.at("clips"), 20);
  EXPECT_LT(evaluation.details.at("accuracy_interval")[0], evaluation.values[0]);

  const auto still = make({"data.frames=8", "main:model.non_local.blocks=[1,1,0,0]"});
  const auto still_optimizers = optimizers_of(*still);
  train(*still, *still_optimizers, 0, 4, 4);
  EXPECT_EQ(evaluate(*still, false).values[0], 0.5);
}

TEST_F(VideoTask, GoesOnBitForBit) {
  expect_resume_bit_for_bit([&](const fs::path& checkpoint) {
    return make({"main:model.non_local.blocks=[0,1,0,0]", "data.eval_clips=2", "train.batch=4"}, {}, checkpoint);
  });
}

TEST_F(VideoTask, ThePlannedSizesAreThoseOfTheModel) {
  for (const char* setting : {"model.inflation=none", "model.inflation=first",
                              "main:model.non_local.after=[\"res3.0\"]", "data.crop=[12,16]"}) {
    const auto task = make({setting, "data.size=[16,16]"});
    const RunSize size = config_->size();
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    EXPECT_EQ(size.parameters_dense, dense + 8 * 129) << setting;  // of ten classes, not two
    EXPECT_EQ(size.multiply_adds, evaluate(*task, false).details.at("multiply_adds").get<int64_t>() + 8 * 128);
    EXPECT_TRUE(
        std::ranges::any_of(size.memory, [](const auto& m) { return m.first == "activations" && m.second > 0; }));
  }
}

// Probabilities of a clip's windows are averaged before the likeliest class is taken.
TEST_F(VideoTask, WindowsOfATestClipAreAveraged) {
  const at::Tensor logits = torch::tensor({{0.0, 0.0}, {std::log(3.0), 0.0}, {5.0, 5.0}, {0.0, 0.0}}, at::kDouble);
  const at::Tensor expected = torch::tensor({{0.625, 0.375}, {0.5, 0.5}}, at::kDouble);
  EXPECT_TRUE(torch::allclose(clip_probabilities(logits, 2), expected));
  const auto one = make({"data.frames=4"}), three = make({"data.frames=4", "data.eval_clips=3"});
  const Evaluation of_one = evaluate(*one, false), of_three = evaluate(*three, false);
  EXPECT_EQ(of_three.details.at("clips"), 20);
  EXPECT_NE(of_one.values[1], of_three.values[1]);
  EXPECT_THAT(three->account(of_three, {}).text, HasSubstr("20 test clips, 3 windows of 4 frames each"));
}

TEST_F(VideoTask, WatchesItsBlocks) {
  const auto task = make({"main:model.non_local.blocks=[0,1,0,0]"});
  const auto optimizers = optimizers_of(*task);
  task->module().train();
  const auto events_of = [&](int64_t step) {
    task->before_step(step, *optimizers);
    task->loss(step, 0);
    return task->after_step({step + 1, 200, 1}, *optimizers);
  };
  EXPECT_TRUE(events_of(98).empty());
  const std::vector<TaskEvent> events = events_of(99);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].line.at("kind"), "non_local");
  EXPECT_EQ(events[0].line.at("block"), "res3_0");
}

TEST_F(VideoTask, SaysHowManyClipsAreTooShort) {
  const auto notices = [&](const char* frames) {
    const auto task = make({frames});
    return std::dynamic_pointer_cast<const OpenedClips>(task->opened_data())->data.notices;
  };
  EXPECT_THAT(notices("data.frames=8"), testing::ElementsAre());
  EXPECT_THAT(notices("data.frames=9"),
              testing::ElementsAre("50 of 50 clips have fewer than 9 frames: their last one is repeated"));
}

TEST_F(VideoTask, ACheckpointNeedsNoDataToBeUsed) {
  const auto task = make({"data.eval_clips=2"});
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 3, 3);
  const fs::path checkpoint = checkpoint_of(*task, *optimizers, 3);
  const double loss = evaluate(*task, false).values[1];
  const auto& plan = dynamic_cast<const VideoClassificationPlan&>(*config_->plan);
  const LoadedVideoClassifier loaded = load_video_classifier(plan, 3, CheckpointReader(checkpoint));
  EXPECT_THAT(loaded.input.classes, testing::ElementsAre("left", "right"));
  const LabelledClips clips = load_clips(*clips_ / "test", loaded.data.image, progress_);
  ASSERT_EQ(clips.clips.size(), 20u);
  const ClipSequence sequence = test_sequence(clips, loaded.input, loaded.data);
  const c10::InferenceMode no_gradient;
  double nats = 0;
  int64_t clip = 0;
  for (int64_t index = 0; index < sequence.batches(); ++index) {
    const ClipBatch batch = test_batch(sequence, index, loaded.data, loaded.data.output(loaded.input.shape));
    const at::Tensor share = clip_probabilities(loaded.model->forward(batch.clips), 2);
    for (int64_t b = 0; b < share.size(0); ++b, ++clip) {
      const bool left = clips.clips[static_cast<size_t>(clip)].name.starts_with("left");
      nats -= std::log(share[b][left ? 0 : 1].item<double>());
    }
  }
  EXPECT_NEAR(nats / 20, loss, 1e-6);
}

TEST_F(VideoTask, RefusesDataThatDoesNotFit) {
  const auto refused = [&](const std::vector<std::string>& settings, const fs::path& data = {},
                           const fs::path& checkpoint = {}) {
    try {
      make(settings, data, checkpoint);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(refused({"data.crop=[17,16]"}),
              HasSubstr("data.crop: it must be within the frames' 16 x 16 (data.size scales them), got 17 x 16"));
  EXPECT_THAT(refused({"data.crop=[4]"}), HasSubstr("data.crop: it must be empty or [height, width], got 1 numbers"));
  EXPECT_THAT(refused({"data.size=[4,4]", "main:model.non_local.blocks=[0,0,0,1]"}),
              HasSubstr("NonLocal: height must be at least the pooling kernel's 2, got 1"));
  EXPECT_THAT(refused({"model.time_halvings=1", "data.frames=1"}), HasSubstr("frames must be at least"));

  const auto task = make();
  const auto optimizers = optimizers_of(*task);
  const fs::path checkpoint = checkpoint_of(*task, *optimizers, 0);
  const TemporaryFolder other;
  write_moving_bars(other / "train", 2, 3);
  write_moving_bars(other / "test", 2, 4);
  for (const char* part : {"train", "test"}) fs::rename(other / part / "left", other / part / "lift");
  EXPECT_THAT(refused({}, other.path(), checkpoint), HasSubstr("the classes must be the 2 of the run, got lift"));
  EXPECT_THAT(refused({"data.size=[8,8]"}, {}, checkpoint), HasSubstr("images must be 16 x 16 x 3 as the run's"));
}

}  // namespace
}  // namespace loci
