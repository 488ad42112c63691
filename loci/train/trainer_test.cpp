#include "loci/train/trainer.h"

#include <signal.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/durable_file.h"
#include "loci/base/stop_signal.h"
#include "loci/train/tensor_file.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_run.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

std::map<std::string, std::string> tensor_bytes(const fs::path& folder) {
  std::map<std::string, std::string> bytes;
  for (const auto& entry : fs::directory_iterator(*newest_step_folder(folder))) {
    if (entry.path().extension() == ".safetensors") bytes[entry.path().filename()] = read_text_file(entry.path());
  }
  return bytes;
}

// The log without what depends on the clock and the machine.
std::vector<nlohmann::json> log_of(const fs::path& folder) {
  std::vector<nlohmann::json> lines;
  std::ifstream file(folder / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    lines.push_back(nlohmann::json::parse(line));
    for (const char* key : {"seconds", "units_per_second", "memory_bytes"}) lines.back().erase(key);
  }
  return lines;
}

void expect_interrupted(const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "not stopped";
  } catch (const Interrupted&) {
  }
}

TEST(Trainer, TellsTheTaskThatTheLastWindowIsNotWhole) {
  const TemporaryFolder folder;
  train_in(folder.path(), TinyRun());  // 20 steps, a line every 3
  for (const auto& line : log_of(folder.path())) {
    if (line["kind"] != "train") continue;
    EXPECT_EQ(line["hits"].is_null(), line["step"] == 20) << line;
  }
}

TEST(Trainer, LogsWhatATaskTellsOfAStepAndShowsItsNotice) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.task.bad_steps = {3};
  setting.task.bad_gradients = {8};
  setting.train.nan_policy = NanPolicy::skip;
  std::vector<double> losses;
  setting.task.after_step = [&](const StepMade& made) -> std::vector<TaskEvent> {
    EXPECT_EQ(made.step, std::ssize(losses) + 1);
    EXPECT_EQ(made.steps, 20);
    losses.push_back(made.loss);
    if (made.step != 6) return {};
    return {{{{"kind", "found"}, {"rows", 5}}, ""}, {{{"kind", "found"}, {"rows", 6}}, "six rows"}};
  };
  testing::internal::CaptureStderr();
  train_in(folder.path(), setting, nullptr, /*quiet=*/false);
  const std::string shown = testing::internal::GetCapturedStderr();
  EXPECT_NE(shown.find("tiny: step 6: six rows\n"), std::string::npos) << shown;
  EXPECT_EQ(shown.find("tiny: step 6: \n"), std::string::npos) << "an empty notice: " << shown;
  EXPECT_TRUE(std::isnan(losses.at(3)));
  EXPECT_GT(losses.at(4), 0);
  EXPECT_TRUE(std::isnan(losses.at(8))) << "a skipped step";
  std::vector<nlohmann::json> found;
  const auto log = log_of(folder.path());
  for (const auto& line : log) {
    if (line["kind"] == "found") found.push_back(line);
  }
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[1], (nlohmann::json{{"kind", "found"}, {"rows", 6}, {"step", 6}}));
}

TEST(Trainer, LearnsAndEvaluatesAtTheEnd) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.steps = 300;
  setting.train.evaluate_every = 299;
  const TrainerState state = train_in(folder / "run", setting);
  const auto log = log_of(folder / "run");
  double first = 0, last = 0;
  for (const auto& line : log) {
    if (line["kind"] == "evaluation" && line["step"] == 299) first = line["measures"]["distance"];
    if (line["kind"] == "evaluation" && line["step"] == 300) last = line["measures"]["distance"];
    if (line["kind"] == "train" && line["step"] == 3) {
      EXPECT_GT(line["loss"].get<double>(), state.evaluation["measures"]["distance"].get<double>());
    }
  }
  EXPECT_GT(first, 0);
  EXPECT_EQ(last, state.evaluation["measures"]["distance"].get<double>());
  EXPECT_EQ(state.step, 300);
  EXPECT_GT(state.seconds, 0);
}

TEST(Trainer, AStoppedRunGoesOnWithTheSameBitsAndTheSameLog) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.evaluate_every = 5;
  train_in(folder / "whole", setting);
  for (const auto& [stop_at, signal] : std::map<int64_t, int>{{0, SIGTERM}, {7, SIGINT}, {13, SIGTERM}, {19, SIGINT}}) {
    TinyRun stopped = setting;
    stopped.task.before_step = [stop_at = stop_at, signal = signal](int64_t step) {
      if (step == stop_at) raise(signal);
    };
    try {
      train_in(folder / "broken", stopped);
      ADD_FAILURE() << "not stopped";
    } catch (const Interrupted& stop) {
      EXPECT_EQ(stop.signal(), signal);
    }
    EXPECT_EQ(CheckpointReader(*newest_step_folder(folder / "broken")).step(), stop_at + 1);
  }
  train_in(folder / "broken", setting);
  EXPECT_EQ(tensor_bytes(folder / "broken"), tensor_bytes(folder / "whole"));
  EXPECT_EQ(log_of(folder / "broken"), log_of(folder / "whole"));
}

TEST(Trainer, AStoppedRunWithAChannelsLastFilterGoesOnWithTheSameBits) {
  for (const DenseRule kind : {DenseRule::adamw, DenseRule::sgd}) {
    const TemporaryFolder folder;
    TinyRun setting;
    setting.task.has_filter = true;
    setting.optimizer.kind = kind;
    train_in(folder / "whole", setting);
    TinyRun stopped = setting;
    stopped.task.before_step = [](int64_t step) {
      if (step == 7) raise(SIGTERM);
    };
    expect_interrupted([&] { train_in(folder / "broken", stopped); });

    TinyTask task(setting.task, {});
    const OptimizerSet optimizers(task.dense_parameters(), setting.optimizer, task.tables(), 0);
    load_checkpoint(open_latest(folder / "broken", {}), task, optimizers);
    NamedTensors of_filter = {{"filter", task.dense_parameters()[1].value}};
    for (const auto& named : optimizers.state()) {
      if (named.first.find("filter.") != std::string::npos && named.second.dim() == 4) of_filter.push_back(named);
    }
    EXPECT_EQ(of_filter.size(), kind == DenseRule::adamw ? 3u : 2u);
    for (const auto& [name, tensor] : of_filter) {
      EXPECT_TRUE(tensor.is_contiguous(at::MemoryFormat::ChannelsLast) && !tensor.is_contiguous()) << name;
      EXPECT_GT(tensor.count_nonzero().item<int64_t>(), 0) << name;
    }

    train_in(folder / "broken", setting);
    EXPECT_EQ(tensor_bytes(folder / "broken"), tensor_bytes(folder / "whole"));
    EXPECT_EQ(log_of(folder / "broken"), log_of(folder / "whole"));
  }
}

// A signal asks for seconds, an evaluation may take minutes: it is made up for when the run goes on.
TEST(Trainer, ASignalSavesBeforeAnEvaluationThatIsDue) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.evaluate_every = 5;
  train_in(folder / "whole", setting);
  // After steps 5, 10 and the last; with how many evaluations before it, those made up for among them.
  for (const auto& [stop_at, wanted] : std::map<int64_t, int>{{4, 0}, {9, 1}, {19, 2}}) {
    TinyRun stopped = setting;
    stopped.task.before_step = [stop_at = stop_at](int64_t step) {
      if (step == stop_at) raise(SIGTERM);
    };
    int evaluations = 0;
    stopped.task.before_evaluation = [&evaluations] { ++evaluations; };
    expect_interrupted([&] { train_in(folder / "broken", stopped); });
    EXPECT_EQ(evaluations, wanted) << stop_at;
    EXPECT_EQ(open_latest(folder / "broken", {}).step(), stop_at + 1);
  }
  train_in(folder / "broken", setting);
  EXPECT_EQ(tensor_bytes(folder / "broken"), tensor_bytes(folder / "whole"));
  EXPECT_EQ(log_of(folder / "broken"), log_of(folder / "whole"));
}

// It has been announced that the run stops: the next one must not begin.
TEST(Trainer, ASignalWhileTheLastCheckpointIsSavedIsNotLost) {
  const TemporaryFolder folder;
  TinyRun stopped;
  stopped.task.during_saving = [] { raise(SIGTERM); };
  expect_interrupted([&] { train_in(folder / "run", stopped); });
  EXPECT_EQ(open_latest(folder / "run", {}).step(), 20);
}

TEST(Trainer, ASignalEndsAnEvaluationThatHeedsIt) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.evaluate_every = 5;
  train_in(folder / "whole", setting);
  TinyRun stopped = setting;
  stopped.task.before_evaluation = [] {
    raise(SIGINT);
    StopSignal::check("stopped while it was evaluated");
  };
  expect_interrupted([&] { train_in(folder / "broken", stopped); });
  EXPECT_EQ(open_latest(folder / "broken", {}).step(), 5);
  train_in(folder / "broken", setting);
  EXPECT_EQ(log_of(folder / "broken"), log_of(folder / "whole"));
}

// A hand-edited checkpoint.
TEST(Trainer, AStateBeyondTheLastStepIsOver) {
  const TemporaryFolder folder;
  TinyRun setting;
  train_in(folder / "run", setting);
  setting.train.steps = 12;
  EXPECT_EQ(train_in(folder / "run", setting).step, 20);
}

TEST(Trainer, AccumulatedMicroBatchesAreOneBatch) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.steps = 3;
  std::unique_ptr<TinyTask> whole, halves;
  train_in(folder / "whole", setting, &whole);
  setting.train.accumulation = 2;
  train_in(folder / "halves", setting, &halves);
  const at::Tensor a = whole->dense_parameters()[0].value, b = halves->dense_parameters()[0].value;
  EXPECT_FALSE(a.equal(at::eye(4) * 0.5));
  EXPECT_TRUE(a.allclose(b, 1e-5, 1e-6));
  EXPECT_TRUE(
      whole->tables()[0].first->store().values().allclose(halves->tables()[0].first->store().values(), 1e-5, 1e-6));
}

TEST(Trainer, NanStopsTheRunAndKeepsTheLastCheckpoint) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.checkpoint_every = 4;
  setting.task.bad_steps = {6};
  expect_error(ExitCode::numbers, "loss must be finite, got nan at step 6", [&] { train_in(folder / "run", setting); });
  EXPECT_EQ(open_latest(folder / "run", {}).step(), 4);
}

TEST(Trainer, NanIsSkippedByPolicyUntilItComesTooOften) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.nan_policy = NanPolicy::skip;
  setting.train.most_skips = 2;
  setting.task.bad_steps = {2, 3, 9, 10};
  EXPECT_EQ(train_in(folder / "run", setting).step, 20);
  setting.task.bad_steps = {2, 3, 4};
  expect_error(ExitCode::numbers, "after 2 skipped steps in a row", [&] { train_in(folder / "stopped", setting); });
}

TEST(Trainer, ARunThatSkipsMostOfItsStepsFailsWhateverMostSkipsAllows) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.nan_policy = NanPolicy::skip;
  setting.train.most_skips = 1000;
  for (int64_t step = 1; step <= 10; ++step) setting.task.bad_steps.insert(step);
  EXPECT_EQ(train_in(folder / "half", setting).step, 20);
  setting.task.bad_steps.insert(11);
  expect_error(ExitCode::numbers, "at least half of the steps must have finite numbers, got 11 of 20 skipped",
               [&] { train_in(folder / "short", setting); });
  setting.train.steps = 100000;
  for (int64_t step = 12; step < 70; ++step) setting.task.bad_steps.insert(step);
  expect_error(ExitCode::numbers, "got 69 of 100 skipped", [&] { train_in(folder / "long", setting); });
}

TEST(Trainer, SkipsAreCountedOverInterruptions) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.nan_policy = NanPolicy::skip;
  setting.train.most_skips = 1000;
  for (int64_t step = 0; step < 11; ++step) setting.task.bad_steps.insert(step);
  TinyRun stopped = setting;
  stopped.task.before_step = [](int64_t step) {
    if (step == 12) raise(SIGTERM);
  };
  expect_interrupted([&] { train_in(folder / "run", stopped); });
  expect_error(ExitCode::numbers, "got 11 of 20 skipped", [&] { train_in(folder / "run", setting); });
}

TEST(Trainer, ALastEvaluationThatIsNotFiniteFailsUnderEitherPolicy) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.task.bad_evaluation = true;
  setting.train.evaluate_every = 5;
  expect_error(ExitCode::numbers, "got inf at step 5", [&] { train_in(folder / "stop", setting); });
  setting.train.nan_policy = NanPolicy::skip;
  expect_error(ExitCode::numbers, "got inf at step 20", [&] { train_in(folder / "skip", setting); });
}

TEST(Trainer, ASkippedStepChangesNothing) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.steps = 2;
  setting.train.nan_policy = NanPolicy::skip;
  setting.task.bad_steps = {1};
  std::unique_ptr<TinyTask> skipped, one;
  train_in(folder / "skipped", setting, &skipped);
  setting.train.steps = 1;
  setting.task.bad_steps = {};
  train_in(folder / "one", setting, &one);
  EXPECT_TRUE(skipped->dense_parameters()[0].value.equal(one->dense_parameters()[0].value));
  EXPECT_TRUE(skipped->tables()[0].first->store().values().equal(one->tables()[0].first->store().values()));
}

TEST(Trainer, OldCheckpointsGo) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.checkpoint_every = 2;
  setting.train.keep_last = 3;
  train_in(folder / "run", setting);
  for (int step = 1; step <= 20; ++step) {
    EXPECT_EQ(fs::exists(folder / "run" / fmt::format("step-{}", step)), step % 2 == 0 && step > 14) << step;
  }
}

}  // namespace
}  // namespace loci
