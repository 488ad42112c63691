// For tests: a run of the tiny task (tiny_task.h), begun or gone on with as an experiment does.
#pragma once

#include <filesystem>
#include <memory>
#include <utility>

#include "loci/train/checkpoint.h"
#include "loci/train/trainer.h"
#include "tests/tiny_task.h"

namespace loci {

struct TinyRun {
  TinyOptions task;
  TrainOptions train;
  DenseOptimizerOptions optimizer;
  uint64_t seed = 1;

  TinyRun() {
    train.steps = 20;
    train.batch = 4;
    train.log_every = 3;
    train.precision = "float32";
  }
};

// One process's part of a run: begins or goes on, as an experiment does.
inline TrainerState train_in(const std::filesystem::path& folder, const TinyRun& setting,
                             std::unique_ptr<TinyTask>* kept = nullptr, bool quiet = true) {
  TaskInputs inputs;
  inputs.seed = setting.seed;
  inputs.batch = {setting.train.batch, setting.train.accumulation};
  auto task = std::make_unique<TinyTask>(setting.task, inputs);
  OptimizerSet optimizers(task->dense_parameters(), setting.optimizer, task->tables(), setting.seed);
  RunDirectory run(folder, "task = \"tiny\"\n");
  TrainerState state;
  if (run.latest()) state = load_checkpoint(open_latest(folder, {}), *task, optimizers);
  MetricsLog log = run.metrics(state.step);
  ProgressLine progress(quiet);
  Trainer trainer(*task, optimizers, setting.train, run, log, {{"seed", setting.seed}}, progress, "tiny");
  state = trainer.run(state);
  if (kept != nullptr) *kept = std::move(task);
  return state;
}

}  // namespace loci
