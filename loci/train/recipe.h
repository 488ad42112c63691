// A recipe: one TOML file with a task, its settings, arms (overrides) and seeds. Every arm and seed is a run.
//
//   task = "language_model"
//   seeds = [0, 1]
//   [data] [tokenizer] [model]          the task's sections
//   [train] [optimizer] [table_optimizer]
//   [[arms]]
//   name = "memory"
//   from = "base"                        optional: an earlier arm whose overrides come first
//   set = {"model.layers" = 4}           overrides, as dotted keys or as tables ([arms.set.model.memory])
//   equal_time = {to = "memory", of = "base"}   optional: steps = steps * seconds(to) / seconds(of), seed by seed
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "loci/base/config.h"
#include "loci/train/task.h"
#include "loci/train/train_options.h"

namespace loci {

// Everything that decides a run's numbers, beside the data: config.toml of a run directory.
struct RunConfig {
  std::string task;
  std::string arm = "main";
  int64_t seed = 0;
  std::shared_ptr<TaskPlan> plan;
  TrainOptions train;
  DenseOptimizerOptions optimizer;
  RowOptimizerOptions table_optimizer;
  bool in_recipe = false;  // arm and seed come from the recipe's lists
  void fields(ConfigFields& f);

  BatchShape batch() const { return {train.batch, train.accumulation}; }
  RunSize size() const;
  int64_t steps() const;
};

// Steps such that the arm trains as long as `to` took, by the speed of `of`.
struct EqualTime {
  std::string to, of;
};

struct Arm {
  std::string name;
  std::optional<EqualTime> equal_time;
  RunConfig config;  // for any seed
};

struct Recipe {
  std::string name;
  std::vector<int64_t> seeds = {0};
  std::vector<Arm> arms;

  const Arm& arm(const std::string& name) const;
  RunConfig run(const Arm& arm, int64_t seed) const;
};

// `settings` are "a.b=c" overrides that come before those of the arms. Throws Error (usage).
Recipe read_recipe(Config config, const std::vector<std::string>& settings, const std::vector<TaskKind>& tasks);
// config.toml of a run. Throws Error (input, for it was written by us).
RunConfig read_run_config(const std::filesystem::path& path, const std::vector<TaskKind>& tasks);

}  // namespace loci
