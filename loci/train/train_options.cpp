#include "loci/train/train_options.h"

#include <algorithm>

#include "loci/base/check.h"

namespace loci {

void TrainOptions::fields(ConfigFields& f) {
  constexpr int64_t most = int64_t{1} << 40;
  f.field("steps", steps, fmt::format("steps of the run; 0: as many as train.{} ask for", unit),
          {.minimum = 0, .maximum = most});
  f.when(steps == 0, "train.steps is 0", [&] {
    f.field(unit, units, fmt::format("{} to train on, in whole steps", unit),
            {.minimum = 1, .maximum = int64_t{1} << 60});
  });
  f.field("batch", batch, "windows (or images, instances) of a step", {.minimum = 1, .maximum = 1 << 20});
  f.field("accumulation", accumulation, "micro-batches that the batch of a step is cut into",
          {.minimum = 1, .maximum = 1 << 20});
  f.choice("precision", precision, "of the dense part; auto: bfloat16 where the CPU multiplies it faster",
           {"float32", "bfloat16", "auto"});
  f.field("threads", threads, "threads; 0: all cores that the process may use", {.minimum = 0, .maximum = 4096});
  f.field("log_every", log_every, "steps between two lines of the log; 0: none", {.minimum = 0, .maximum = most});
  f.field("evaluate_every", evaluate_every, "steps between two evaluations; 0: at the end alone",
          {.minimum = 0, .maximum = most});
  f.field("checkpoint_every", checkpoint_every, "steps between two checkpoints; 0: at the end alone",
          {.minimum = 0, .maximum = most});
  f.field("keep_last", keep_last, "checkpoints that stay", {.minimum = 1, .maximum = most});
  f.choice("nan_policy", nan_policy,
           "what a loss or gradient that is not finite does: stops the run, or skips the step",
           {{"stop", NanPolicy::stop}, {"skip", NanPolicy::skip}});
  f.when(nan_policy == NanPolicy::skip, "train.nan_policy is \"skip\"",
         [&] { f.field("most_skips", most_skips, "most skipped steps in a row", {.minimum = 1, .maximum = most}); });
}

void TrainOptions::check() const {
  if (batch % accumulation != 0) {
    fail(ExitCode::usage, "config", "train.batch must be a multiple of train.accumulation",
         fmt::format("{} and {}", batch, accumulation));
  }
}

void StartOptions::fields(ConfigFields& f) {
  f.field("weights", weights,
          "a safetensors file, a run directory or its step-N folder; {arm} and {seed} are filled in");
  f.when(weights.empty(), "start.weights is \"\"",
         [&] { f.field("arm", arm, "an earlier arm, whose finished run of the same seed is started from"); });
  f.field("continues", continues, "train.tokens (what is counted) has those of the start too; the data go on there");
  f.when(continues, "start.continues is true", [&] {
    f.field("units_before", units_before, "what the weights were trained on; 0: as start.arm was", {.minimum = 0});
  });
}

void StartOptions::check() const {
  if (source().empty()) fail(ExitCode::usage, "config", "start.weights or start.arm must be given", "neither");
  if (continues && !weights.empty() && units_before == 0) {
    fail(ExitCode::usage, "config", "start.units_before must say what start.weights were trained on", "0");
  }
}

int64_t TrainOptions::steps_for(int64_t units_per_step) const {
  if (steps > 0) return steps;
  return std::max<int64_t>(1, (units + units_per_step / 2) / units_per_step);
}

}  // namespace loci
