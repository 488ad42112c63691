// For tests of tasks: a task of a recipe, trained on one thread, and its checkpoints. Small networks gain nothing from
// more threads.
#pragma once

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config.h"
#include "loci/table/row_store.h"
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

  using MakeTask = std::function<std::unique_ptr<Task>(const std::filesystem::path& checkpoint)>;
  // A run of 12 steps and one that goes on from its checkpoint after 6 end with the same bits. The checkpoint.
  std::filesystem::path expect_resume_bit_for_bit(const MakeTask& make) {
    const auto whole = make({});
    const auto whole_optimizers = optimizers_of(*whole);
    train(*whole, *whole_optimizers, 0, 12, 12);
    const auto half = make({});
    const auto half_optimizers = optimizers_of(*half);
    train(*half, *half_optimizers, 0, 6, 12);
    const std::filesystem::path checkpoint = checkpoint_of(*half, *half_optimizers, 6);
    const auto resumed = make(checkpoint);
    const auto resumed_optimizers = optimizers_of(*resumed);
    load_checkpoint(CheckpointReader(checkpoint), *resumed, *resumed_optimizers);
    train(*resumed, *resumed_optimizers, 6, 12, 12);
    // As text, for a measure that there is none of is NaN.
    const auto values = [](Task& task) { return nlohmann::json(evaluate(task, false).values).dump(); };
    EXPECT_EQ(values(*resumed), values(*whole));
    EXPECT_EQ(resumed->training_measures(true), whole->training_measures(true));
    const auto expected = state_of(*whole), got = state_of(*resumed);
    EXPECT_EQ(got.size(), expected.size());
    for (const auto& [name, value] : expected) EXPECT_TRUE(got.at(name).equal(value)) << name;
    return checkpoint;
  }
  // What a run has learned and what its task keeps in addition.
  static std::map<std::string, at::Tensor> state_of(Task& task) {
    std::map<std::string, at::Tensor> state;
    for (const auto& parameter : task.module().named_parameters()) state[parameter.key()] = parameter.value();
    for (const auto& buffer : task.module().named_buffers()) state[buffer.key()] = buffer.value();
    for (const auto& [table, rows] : task.tables()) state["rows of " + table->name()] = table->store().values();
    for (const auto& [name, tensor] : task.extra_state()) state["extra." + name] = tensor;
    return state;
  }

  std::string recipe_;
  int threads_before_;
  TemporaryFolder runs_;
  ProgressLine progress_{true};
  std::unique_ptr<RunConfig> config_;
};

}  // namespace loci
