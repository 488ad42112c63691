#include "loci/tasks/skeleton_classification.h"

#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "loci/base/random.h"
#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr const char* kSkeletonRecipe = R"(
task = "skeleton_classification"
[data]
frames = 16
[model]
width = 8
dropout = 0.2
[train]
batch = 8
precision = "float32"
[optimizer]
learning_rate = 1e-2
clip_norm = 0
[optimizer.schedule]
warmup = 0
)";

// A body of four joints; in `raise` the last one goes up, in `lower` down.
void write_skeletons(const fs::path& file, int64_t clips, uint64_t seed, const std::string& first = "raise") {
  std::ofstream out(file);
  out << "clip,label,frame,x0,y0,x1,y1,x2,y2,x3,y3\n";
  const CounterRandom random(seed, "skeletons");
  uint64_t draw = 0;
  for (int64_t clip = 0; clip < clips; ++clip) {
    const bool up = clip % 2 == 0;
    const int64_t frames = 10 + clip % 5;
    for (int64_t t = 0; t < frames; ++t) {
      const auto jitter = [&] { return 0.02 * random.normal(draw++); };
      const double along = static_cast<double>(t) / static_cast<double>(frames - 1);
      const double y = 0.3 + 0.4 * (up ? along : 1 - along);
      out << fmt::format("{},{},{},{:.4f},0,{:.4f},0.5,{:.4f},1,{:.4f},{:.4f}\n", clip, up ? first : "lower", t,
                         jitter(), jitter(), jitter(), 0.3 + jitter(), y + jitter());
    }
  }
}

class SkeletonTask : public TaskTest {
 protected:
  SkeletonTask() : TaskTest(kSkeletonRecipe) {
    write_skeletons(folder_ / "train.csv", 24, 1);
    write_skeletons(folder_ / "test.csv", 12, 2);
  }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, folder_.path(), checkpoint);
  }

  TemporaryFolder folder_;
};

TEST_F(SkeletonTask, LossIsAFunctionOfStepAndSeed) {
  const auto task = make();
  const double first = task->loss(0, 0).item<double>();
  EXPECT_NE(first, task->loss(7, 0).item<double>());
  EXPECT_EQ(task->loss(0, 0).item<double>(), first);
  const double later = task->loss(7, 0).item<double>();
  EXPECT_EQ(make()->loss(7, 0).item<double>(), later);
}

TEST_F(SkeletonTask, LearnsWhichWayAJointMoves) {
  for (const auto& settings :
       {std::vector<std::string>{},
        {"model.middle=non_local", "model.non_local.domain=time", "model.non_local.pool=none"}}) {
    const auto task = make(settings);
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, 40, 40);
    EXPECT_GT(task->training_measures(true).at("train_accuracy").get<double>(), 0.7);  // of all steps
    const Evaluation evaluation = evaluate(*task, false);
    EXPECT_GT(evaluation.values[0], 0.9);
    EXPECT_EQ(evaluation.details.at("clips"), 12);
    EXPECT_LT(evaluation.details.at("accuracy_interval")[0], 0.9);
    EXPECT_THAT(task->account(evaluation, {}).text, HasSubstr("12 test clips of 4 joints, 16 frames each"));
  }
}

TEST_F(SkeletonTask, GoesOnBitForBit) {
  expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make({"model.middle=residual"}, checkpoint); });
}

// Without a part and without noise, training sees the clips as the test does: the same loss on the same clips.
TEST_F(SkeletonTask, TrainingDrawsPartsAndNoise) {
  write_skeletons(folder_ / "train.csv", 8, 1);
  const auto loss_of = [&](const std::vector<std::string>& more) {
    std::vector<std::string> settings = {"model.dropout=0"};
    settings.insert(settings.end(), more.begin(), more.end());
    const auto task = make(settings);
    task->module().eval();
    const at::NoGradGuard guard;
    task->module().named_parameters()["linear_weight"].mul_(100);  // so that the loss shows what the input is
    return std::pair(task->loss(0, 0).item<double>(), task->loss(1, 0).item<double>());
  };
  const auto [first, second] = loss_of({"data.noise=0", "data.shortest_part=1"});
  EXPECT_NEAR(first, second, 1e-5);  // an epoch is a batch, in another order
  const auto [noisy, noisier] = loss_of({"data.noise=0.1", "data.shortest_part=1"});
  EXPECT_GT(std::abs(noisy - noisier), 1e-3);
  const auto [part, other_part] = loss_of({"data.noise=0", "data.shortest_part=0.3"});
  EXPECT_GT(std::abs(part - other_part), 1e-4);
}

TEST_F(SkeletonTask, ThePlannedSizesAreThoseOfTheModel) {
  for (const char* middle : {"none", "residual"}) {
    const auto task = make({std::string("model.middle=") + middle});
    const auto& plan = dynamic_cast<const SkeletonClassificationPlan&>(*config_->plan);
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    EXPECT_EQ(plan.model_for(2, 4).parameters(), dense) << middle;
    EXPECT_EQ(config_->size().parameters_dense, plan.model_for(14, 15).parameters());
  }
}

TEST_F(SkeletonTask, WatchesItsBlocks) {
  const auto task = make({"model.middle=non_local", "model.non_local.pool=none"});
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
  EXPECT_EQ(events[0].line.at("block"), "non_local");
}

TEST_F(SkeletonTask, ACheckpointKeepsItsClasses) {
  const auto task = make();
  const auto optimizers = optimizers_of(*task);
  const fs::path checkpoint = checkpoint_of(*task, *optimizers, 0);
  make({}, checkpoint);
  write_skeletons(folder_ / "train.csv", 4, 3, "climb");
  write_skeletons(folder_ / "test.csv", 4, 4, "climb");
  expect_error(ExitCode::input, "classes and joints must be those of the run", [&] { make({}, checkpoint); });
}

}  // namespace
}  // namespace loci
