// For tests of tasks: a task of a recipe, trained on one thread, and its checkpoints. Small networks gain nothing from
// more threads.
#pragma once

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config.h"
#include "loci/tasks/all.h"
#include "loci/train/checkpoint.h"
#include "loci/train/recipe.h"
#include "loci/train/run_directory.h"
#include "loci/train/train_step.h"
#include "loci/train/trainer.h"
#include "tests/temporary_folder.h"

namespace loci {

class TaskTest : public testing::Test {
 protected:
  // `recipe`: of one arm, as TOML.
  explicit TaskTest(std::string recipe) : recipe_(std::move(recipe)), threads_before_(at::get_num_threads()) {
    at::set_num_threads(1);
  }
  ~TaskTest() override { at::set_num_threads(threads_before_); }

  // With settings as of --set; of seed 3.
  std::unique_ptr<Task> make_task(const std::vector<std::string>& settings, const std::filesystem::path& data,
                                  const std::filesystem::path& checkpoint = {},
                                  std::shared_ptr<const OpenedData> opened = nullptr) {
    config_ =
        std::make_unique<RunConfig>(read_recipe(Config::from_text(recipe_), settings, all_tasks()).arms[0].config);
    config_->plan->check();
    TaskInputs inputs;
    inputs.data = data;
    inputs.opened = std::move(opened);
    inputs.checkpoint = checkpoint;
    inputs.seed = 3;
    inputs.batch = config_->batch();
    inputs.rows = config_->table_optimizer;
    inputs.progress = &progress_;
    return config_->plan->make(inputs);
  }
  std::unique_ptr<OptimizerSet> optimizers_of(Task& task) const {
    return std::make_unique<OptimizerSet>(task.dense_parameters(), config_->optimizer, task.tables(), 3);
  }
  static void train(Task& task, OptimizerSet& optimizers, int64_t from, int64_t to, int64_t steps) {
    task.module().train();
    for (int64_t step = from; step < to; ++step) {
      const StepResult made = train_step(task, optimizers, step, steps, 1, false);
      ASSERT_TRUE(made.good);
      task.after_step({step + 1, steps, made.loss}, optimizers);
    }
  }
  // The checkpoint of a run of so many steps, in a run directory that is begun anew.
  std::filesystem::path checkpoint_of(Task& task, OptimizerSet& optimizers, int64_t step) {
    std::filesystem::remove_all(runs_ / "run");
    const RunDirectory run(runs_ / "run", "task = \"" + config_->task + "\"\n");
    TrainerState state;
    state.step = step;
    save_checkpoint(run, task, optimizers, state, {{"seed", 3}}, 2);
    return *run.latest();
  }

  std::string recipe_;
  int threads_before_;
  TemporaryFolder runs_;
  ProgressLine progress_{true};
  std::unique_ptr<RunConfig> config_;
};

}  // namespace loci
