// The loop that trains any task: batches, backward, the optimisers, log, evaluation, checkpoints, signals.
#pragma once

#include <nlohmann/json.hpp>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/progress.h"
#include "loci/optim/optimizer_set.h"
#include "loci/train/checkpoint.h"
#include "loci/train/run_directory.h"
#include "loci/train/task.h"
#include "loci/train/train_options.h"
#include "loci/train/train_step.h"

namespace loci {

// Task::evaluate and Task::account in evaluation mode, without gradients, in the precision of the run.
Evaluation evaluate(Task& task, bool bfloat16);
Account account_of(Task& task, const Evaluation& evaluation, const AccountOptions& options, bool bfloat16);

class Trainer {
 public:
  // `facts` go into the manifest of every checkpoint; `label` begins every progress line. All ranks train together:
  // they evaluate, save and stop at the same steps, and a signal to one of them stops all.
  Trainer(Task& task, OptimizerSet& optimizers, TrainOptions options, RunDirectory& run, MetricsLog& log,
          nlohmann::json facts, ProgressLine& progress, std::string label, Ranks ranks = {});

  // Is told once, after the first steps, how many seconds a step takes.
  void on_pace(std::function<void(double)> tell) { on_pace_ = std::move(tell); }

  // Trains from `state` to the last step and returns the state there, with the final evaluation. Throws Error (numbers)
  // by the NaN policy and Interrupted after a signal, the run saved.
  TrainerState run(TrainerState state);

 private:
  bool over(const TrainerState& state) const;
  bool evaluation_due(const TrainerState& state) const;
  int signal() const;                                   // that came to some rank; 0: none
  void stop_if_asked(TrainerState& state, int signal);  // after a signal: saves and throws Interrupted
  [[noreturn]] void stop(const TrainerState& state, int signal);
  std::string last_checkpoint() const;
  [[noreturn]] void fail_not_finite(const TrainerState& state, double loss, const std::string& after) const;
  void note_bad_step(TrainerState& state, double loss);
  void refuse_mostly_skipped(const TrainerState& state) const;
  void tell(const TrainerState& state, const std::vector<TaskEvent>& events);
  void log_step(TrainerState& state, double rate);
  void evaluate_and_log(TrainerState& state);
  void save(TrainerState& state);
  void show(const TrainerState& state, const StepResult& result);

  Task& task_;
  OptimizerSet& optimizers_;
  TrainOptions options_;
  RunDirectory& run_;
  MetricsLog& log_;
  nlohmann::json facts_;
  ProgressLine& progress_;
  std::string label_;
  Ranks ranks_;
  int64_t units_per_step_;
  int64_t steps_;
  bool bfloat16_;
  double began_seconds_ = 0;  // state.seconds when this process began
  int64_t began_step_ = 0;
  double logged_seconds_ = 0;  // at the last line of the log
  int64_t logged_step_ = 0;
  nlohmann::json measures_;
  std::function<void(double)> on_pace_;
};

}  // namespace loci
