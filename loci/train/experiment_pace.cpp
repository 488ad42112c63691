// Arms of equal time: the runs of two other arms are timed in turns.
#include <algorithm>
#include <cmath>
#include <utility>

#include "loci/base/paths.h"
#include "loci/train/experiment.h"
#include "loci/train/in_turns.h"
#include "loci/train/precision.h"
#include "loci/train/train_step.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr int kPaceRounds = 10;    // even: each goes first in half of them
constexpr int64_t kWarmSteps = 3;  // make caches and generated code

// Trains on past the last of `steps` steps, without a log, evaluations and checkpoints.
class Pace {
 public:
  Pace(Task& task, OptimizerSet& optimizers, TrainOptions options, int64_t steps)
      : task_(task), optimizers_(optimizers), options_(std::move(options)), steps_(steps) {
    use_threads(options_.threads);
    task_.module().train();
    for (int64_t i = 0; i < kWarmSteps; ++i) step();
  }

  // Seconds per step over as many steps as a turn of `seconds` has, at least one.
  double turn(double seconds) {
    use_threads(options_.threads);
    const double begin = monotonic_seconds();
    double passed = 0;
    int64_t count = 0;
    while (count == 0 || passed < seconds) {
      step();
      ++count;
      passed = monotonic_seconds() - begin;
    }
    return passed / static_cast<double>(count);
  }

 private:
  void step() {
    const StepResult result = train_step(task_, optimizers_, steps_ + done_, steps_, options_.accumulation,
                                         wants_bfloat16(options_.precision));
    ++done_;
    task_.after_step({steps_ + done_, steps_, result.loss}, optimizers_);
    if (options_.log_every > 0 && done_ % options_.log_every == 0) task_.training_measures(false);
  }

  Task& task_;
  OptimizerSet& optimizers_;
  TrainOptions options_;
  int64_t steps_;
  int64_t done_ = 0;
};

}  // namespace

// The arm's configuration with what is known only now: the steps of an arm of equal time. A run that has begun keeps
// the number that it began with.
RunConfig Experiment::resolve(const Place& place, ProgressLine& progress) {
  RunConfig config = recipe_.run(*place.arm, place.seed);
  if (!place.arm->equal_time) return config;
  const fs::path begun = folder_of(place.arm->name, place.seed) / "config.toml";
  if (!path_exists(begun)) {
    config.train.steps = steps_of_equal_time(place, progress);
    return config;
  }
  struct Length {
    TrainOptions train;
    void fields(ConfigFields& f) { f.section("train", train); }
  } length{config.train};
  as_input([&] { Config::from_file(begun).read_part(length); });
  config.train.steps = length.train.steps;
  return config;
}

// The steps that `to` took, times the ratio of its pace to that of `of`. Both go on from their last checkpoints, and
// nothing of that is kept.
int64_t Experiment::steps_of_equal_time(const Place& place, ProgressLine& progress) {
  const auto& [to, of] = *place.arm->equal_time;
  for (const std::string& arm : {to, of}) finished_result(arm, place.seed, place.arm->name);
  progress.show(fmt::format("timing {} and {} in turns", to, of));
  const auto open = [&](const std::string& arm) {
    const fs::path work = options_.out / fmt::format("pace-{}-seed-{}-{}", place.arm->name, place.seed, arm);
    return open_run(recipe_.run(recipe_.arm(arm), place.seed), work, progress);
  };
  const auto pace = [](OpenRun& run) { return Pace(*run.task, *run.optimizers, run.config.train, run.state.step); };
  const auto run_to = open(to), run_of = open(of);
  Pace pace_to = pace(*run_to), pace_of = pace(*run_of);
  const double ratio = ratio_in_turns([&] { return pace_to.turn(options_.turn_seconds); },
                                      [&] { return pace_of.turn(options_.turn_seconds); }, kPaceRounds);
  return std::max<int64_t>(1, std::llround(static_cast<double>(run_to->state.step) * ratio));
}

}  // namespace loci
