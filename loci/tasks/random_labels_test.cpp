#include "loci/tasks/random_labels.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "loci/table/row_store.h"
#include "loci/tasks/all.h"
#include "loci/train/recipe.h"
#include "loci/train/trainer.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

constexpr const char* kToy = R"(
task = "random_labels"
[train]
batch = 512
[optimizer]
learning_rate = 1e-3
beta2 = 0.999
weight_decay = 0
clip_norm = 0
[optimizer.schedule]
kind = "constant"
warmup = 0
[table_optimizer]
learning_rate = 5e-3
)";

// A run of the toy without files, on one thread: its matrices are too small for more.
struct ToyRun {
  ToyRun(uint64_t seed, const std::vector<std::string>& settings) : threads_before(at::get_num_threads()) {
    at::set_num_threads(1);
    const Recipe recipe = read_recipe(Config::from_text(kToy), settings, all_tasks());
    const RunConfig& config = recipe.arms[0].config;
    TaskInputs inputs;
    inputs.seed = seed;
    inputs.batch = config.batch();
    inputs.rows = config.table_optimizer;
    config.plan->check();
    task = config.plan->make(inputs);
    optimizers = std::make_unique<OptimizerSet>(task->dense_parameters(), config.optimizer, task->tables(), seed);
  }
  ~ToyRun() { at::set_num_threads(threads_before); }
  ToyRun(const ToyRun&) = delete;
  ToyRun& operator=(const ToyRun&) = delete;
  void train(int64_t steps) {
    for (int64_t step = 0; step < steps; ++step) {
      task->before_step(step, *optimizers);
      const at::Tensor loss = task->loss(step, 0);
      loss.backward();
      task->update(step, steps, *optimizers, 1);
      for (TaskEvent& event : task->after_step({step + 1, steps, loss.item<double>()}, *optimizers)) {
        events.push_back(std::move(event));
      }
    }
  }
  std::pair<double, double> accuracy_and_usage() const {
    const Evaluation evaluation = evaluate(*task, /*bfloat16=*/false);
    return {evaluation.values[0], evaluation.values.at(1)};
  }

  int threads_before;
  std::unique_ptr<Task> task;
  std::unique_ptr<OptimizerSet> optimizers;
  std::vector<TaskEvent> events;
};

TEST(RandomLabels, TheSeedMakesVectorsAndLabels) {
  const auto loss = [](uint64_t seed, int64_t step) {
    return ToyRun(seed, {"model.query_norm=none"}).task->loss(step, 0).item<double>();
  };
  EXPECT_EQ(loss(1, 5), loss(1, 5));
  EXPECT_NE(loss(1, 5), loss(1, 6));
  EXPECT_NE(loss(1, 5), loss(2, 5));
  EXPECT_NEAR(loss(1, 5), std::log(64.0), 0.3);  // nothing is known yet
}

TEST(RandomLabels, TheNetworkWithoutAMemoryTakesAsManyMultiplyAdds) {
  const auto multiply_adds = [](const std::string& kind) {
    const ToyRun run(0, {"data.vectors=600", "model.kind=" + kind});
    return evaluate(*run.task, false).details.at("multiply_adds").get<double>();
  };
  EXPECT_EQ(multiply_adds("memory"), 4096 + 4096 + 128 + 4096);
  EXPECT_NEAR(multiply_adds("mlp") / multiply_adds("memory"), 1, 0.005);
  const ToyRun mlp(0, {"data.vectors=600", "model.kind=mlp"});
  EXPECT_EQ(evaluate(*mlp.task, false).values.size(), 1u);
  EXPECT_TRUE(mlp.task->tables().empty());
}

TEST(RandomLabels, ThePlannedSizesAreThoseOfTheModel) {
  for (const char* setting : {"model.query_norm=none", "model.query_norm=layer", "model.query_norm=rms",
                              "model.query_norm=batch", "model.query_norm=center", "model.kind=mlp"}) {
    const Recipe recipe = read_recipe(Config::from_text(kToy), {setting}, all_tasks());
    const ToyRun run(0, {setting, "data.vectors=10"});
    int64_t dense = 0;
    for (const NamedParameter& parameter : run.task->dense_parameters()) dense += parameter.value.numel();
    EXPECT_EQ(recipe.arms[0].config.size().parameters_dense, dense) << setting;
  }
}

TEST(RandomLabels, ADeadStartReachesASixteenthOfTheRows) {
  ToyRun dead(0, {"model.start=dead"}), normal(0, {});
  dead.train(100);
  normal.train(100);
  EXPECT_LT(dead.events.at(0).line["used"].get<double>(), 0.08);
  EXPECT_GT(normal.events.at(0).line["used"].get<double>(), 0.8);
}

TEST(RandomLabels, RefusesWhatDoesNotFit) {
  const auto refused = [](const std::string& message, const std::vector<std::string>& settings) {
    expect_error(ExitCode::usage, message, [&] { ToyRun(0, settings); });
  };
  refused("model.top_k must be at most model.rows = 4", {"model.rows=4", "model.top_k=5"});
  refused("model.kind must be \"memory\" with [model.reinitialise]",
          {"model.kind=mlp", "main:model.reinitialise.keys=query"});
  refused("model.reinitialise.keys must be \"split\" where model.reinitialise.values is \"copy\"",
          {"main:model.reinitialise.values=copy"});
}

// The alarm: within 300 steps without a norm, never with that over the batch.
TEST(RandomLabels, WithoutANormTheMemoryCollapsesAndTheAlarmTellsIt) {
  for (const uint64_t seed : {0, 1, 2}) {
    ToyRun none(seed, {"model.query_norm=none"}), batch(seed, {});
    none.train(300);
    const auto told = std::ranges::find_if(
        none.events, [](const TaskEvent& event) { return event.notice.starts_with("memory collapsed: "); });
    ASSERT_NE(told, none.events.end()) << seed;
    EXPECT_TRUE(told->notice.ends_with(" % of rows used, 100 % expected; query norm is none")) << told->notice;
    batch.train(300);
    EXPECT_EQ(batch.events.size(), 3u);
    for (const TaskEvent& event : batch.events) EXPECT_EQ(event.line["level"], "well") << seed;
  }
}

// As long as the recipe (recipes/random-labels), one seed of five.
constexpr int64_t kToySteps = 3000;

TEST(RandomLabels, TheNormOverTheBatchKeepsTheRowsInUse) {
  ToyRun none(0, {"model.query_norm=none"}), batch(0, {});
  none.train(600);
  EXPECT_LT(none.accuracy_and_usage().first, 0.1);
  EXPECT_LT(none.accuracy_and_usage().second, 0.05);
  batch.train(kToySteps);
  EXPECT_GT(batch.accuracy_and_usage().first, 0.7);
  EXPECT_GT(batch.accuracy_and_usage().second, 0.9);
}

// Three quarters of the sub-keys are dead from the start: what no gradient cures, re-initialisation does.
TEST(RandomLabels, ReinitialisationBringsDeadKeysBack) {
  ToyRun left(0, {"model.start=dead"}), query(0, {"model.start=dead", "main:model.reinitialise.keys=query"}),
      split(0, {"model.start=dead", "main:model.reinitialise.keys=split"});
  left.train(600);
  EXPECT_LE(left.accuracy_and_usage().second, 0.1);
  query.train(kToySteps);
  EXPECT_GE(query.accuracy_and_usage().first, 0.4);
  EXPECT_GE(query.accuracy_and_usage().second, 0.75);
  split.train(kToySteps);
  EXPECT_GE(split.accuracy_and_usage().first, 0.2);  // near copies seldom win
  EXPECT_GE(split.accuracy_and_usage().second, 0.45);
}

}  // namespace
}  // namespace loci
