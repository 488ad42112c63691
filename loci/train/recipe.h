// A recipe: one TOML file with a task, its settings, arms (overrides) and seeds. Every arm and seed is a run.
//
//   task = "language_model"
//   seeds = [0, 1]
//   [data] [tokenizer] [model]          the task's sections
//   [train] [optimizer] [table_optimizer]
//   [start]                              optional: trained weights that runs start from; an arm, or files. With
//                                        `continues` the run goes on where the other ended: in units and in the data
//   [[arms]]
//   name = "memory"
//   from = "base"                        optional: an earlier arm whose overrides come first
//   set = {"model.layers" = 4}           overrides, as dotted keys or as tables ([arms.set.model.memory])
//   equal_time = {to = "memory", of = "base"}   optional: the steps of `to` * pace(to) / pace(of), seed by seed
//
// Keys come in layers: the recipe, then each arm's overrides, then the settings of the command line; a later layer
// wins. A key of an earlier layer that a later one leaves without an effect is dropped (optimizer.beta1 where an arm
// chooses kind = "sgd"), and train.steps replaces train.tokens (train.UNIT, as TaskPlan::unit() says) and the other way
// round. A key that its own layer leaves without an effect is an error.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "loci/base/config.h"
#include "loci/train/task.h"
#include "loci/train/train_options.h"

namespace loci {

// Everything that decides a run's numbers, apart from the data: config.toml of a run directory.
struct RunConfig {
  std::string task;
  std::string arm = "main";
  int64_t seed = 0;
  std::shared_ptr<TaskPlan> plan;
  TrainOptions train;
  DenseOptimizerOptions optimizer;
  RowOptimizerOptions table_optimizer;
  bool has_start = false;
  StartOptions start;
  bool in_recipe = false;  // arm and seed come from the recipe's lists
  void fields(ConfigFields& f);

  BatchShape batch() const { return {train.batch, train.accumulation}; }
  // On several ranks: what one of them needs. Parameters and units are of all.
  RunSize size(const Ranks& ranks = {}) const;
  int64_t steps() const;
  // What its weights were trained on before, where that counts (start.continues).
  int64_t units_before() const { return has_start && start.continues ? start.units_before : 0; }
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
  // "{arm}" and "{seed}" in start.weights become the run's.
  RunConfig run(const Arm& arm, int64_t seed) const;
};

// `settings` of the command line: "a.b=c" for the selected arms (none named: all), "ARM:a.b=c" for one of them. Those
// of a section that may be absent, such as [model.memory], go to the arms that have it; with ARM they add it. Each must
// have an effect on an arm. Throws Error (usage).
Recipe read_recipe(Config config, const std::vector<std::string>& settings, const std::vector<TaskKind>& tasks,
                   const std::vector<std::string>& selected = {});
// Every key of the task's recipes as TOML, each with its help, default, type and range.
std::string recipe_keys(const TaskKind& kind);
// config.toml of a run. Throws Error (input, for it was written by us).
RunConfig read_run_config(const std::filesystem::path& path, const std::vector<TaskKind>& tasks);

}  // namespace loci
