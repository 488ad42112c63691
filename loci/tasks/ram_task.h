// Neural random-access machines learn one of the ten tasks: independent seeds side by side, a curriculum for each, and
// an anneal that makes their choices discrete.
//
// Legend: S seeds, B samples of each (train.batch), M values and cells.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/ram/ram_tasks.h"
#include "loci/nn/machine/neural_ram.h"
#include "loci/tasks/ram_evaluation.h"
#include "loci/tasks/ram_seeds.h"
#include "loci/train/checkpoint.h"
#include "loci/train/recipe.h"
#include "loci/train/task.h"

namespace loci {

// [data]: the task and its curriculum.
struct RamDataOptions {
  std::string task = "access";
  int64_t difficulty = 8;  // the last level
  int64_t slack = 4;       // cells beyond what the last level needs
  int64_t index_base = 0;
  bool out_pointer = false;
  double raise_error = 0.2;  // a level is learned below it
  int64_t gap = 50;          // updates between two rises
  void fields(ConfigFields& f);
};

// [search]: how many seeds, and when to stop. Seeds are numbered from the run's own seed on.
struct RamSearchOptions {
  int64_t seeds = 16;
  int64_t enough = 0;            // exact discrete machines that end the run; 0: all seeds go to their ends
  int64_t learn_updates = 4000;  // a seed that has not learned the last level by then is given up
  int64_t early_updates = 0;     // so is one that has not reached early_level after these; 0: none is
  int64_t early_level = 3;
  void fields(ConfigFields& f);
};

class RamPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "instances"; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  bool needs_data() const override { return false; }
  bool uses_optimizers() const override { return false; }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  RamTask ram_task() const;
  uint32_t tape_size() const;    // M in training
  std::string data_key() const;  // which checkpoints it may go on from: task, layout and M

  RamDataOptions data;
  NeuralRamOptions model;
  RamUpdateOptions update;
  RamAnnealOptions anneal;
  RamSearchOptions search;
};

std::unique_ptr<TaskPlan> ram_plan();

class RamLearning : public Task {
 public:
  RamLearning(const RamPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *machine_; }
  std::vector<NamedParameter> dense_parameters() override { return {}; }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {}; }
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return plan_.search.seeds * batch_; }
  std::vector<Measure> measures() const override;
  at::Tensor loss(int64_t step, int64_t micro) override;
  StepReport update(int64_t step, int64_t steps, OptimizerSet& optimizers, double divisor) override;
  bool finished() const override;
  std::string progress() const override;
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  nlohmann::json training_measures(bool whole) override;
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override;
  void extra_state_loaded() override { seeds_.unpack(); }
  std::vector<std::pair<std::string, std::string>> files() override;
  std::string data_key() const override;

  const NeuralRam& machine() const { return *machine_; }
  const RamSeeds& seeds() const { return seeds_; }

 private:
  struct SeedMeasures {
    nlohmann::json entry;
    double soft_error = 0;  // of cells, at the last level
    bool solved = false, generalises = false, exact = false;
    double rank = 0;  // by which the best seed is chosen: the less the better
  };
  CurriculumOptions curriculum() const;
  RamUnrollInput draw(int64_t step);  // also difficulty_ and answer_cells_
  SeedMeasures measure(int64_t seed);
  void follow(int64_t seed, int64_t row, int64_t step);
  void check_anneal(int64_t seed);

  RamPlan plan_;
  RamTask task_;
  int64_t M_;
  int64_t batch_;
  ProgressLine* progress_;
  std::shared_ptr<NeuralRam> machine_;
  RamSeeds seeds_;
  // Of the current step, by row of the active seeds:
  std::vector<int64_t> active_;
  std::vector<int64_t> difficulty_;
  std::vector<int64_t> answer_cells_;  // of each instance
  std::vector<double> error_;
  RamUnrollOutput output_;
};

// A checkpoint's machines. Throws Error (usage) when the run is of another task.
struct LoadedRam {
  RamTask task;
  std::shared_ptr<NeuralRam> machine;
  int64_t best = 0;  // index of the seed that the last evaluation found best
};
LoadedRam load_ram(const RunConfig& config, const CheckpointReader& checkpoint);

}  // namespace loci
