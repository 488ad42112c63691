// The language model on several ranks: slices of one batch, tables in parts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "loci/table/row_store.h"
#include "loci/tasks/all.h"
#include "loci/train/table_home.h"
#include "loci/train/train_step.h"
#include "loci/train/trainer.h"
#include "tests/language_model_test.h"
#include "tests/ranks.h"

namespace loci {
namespace {

using at::Tensor;

struct Trained {
  std::vector<double> losses;
  double evaluated = 0;
  std::vector<Tensor> dense;  // parameters
  std::vector<Tensor> rows;   // of this rank, by table
};

class LanguageModelRanks : public LanguageModel {
 protected:
  struct Rank {
    std::unique_ptr<Task> task;
    OptimizerSet optimizers;
    int64_t accumulation;

    StepResult step(int64_t step, const Ranks& ranks) {
      return train_step(*task, optimizers, step, 3, accumulation, false, ranks);
    }
  };

  // Gradients are used as they are: other rules divide them by their own size, and with it what sums in another order
  // differ by.
  Rank make(std::vector<std::string> settings, const Ranks& ranks) {
    for (const char* own :
         {"optimizer.kind=sgd", "optimizer.momentum=0", "optimizer.learning_rate=0.1", "table_optimizer.rule=sgd",
          "table_optimizer.learning_rate=0.1", "optimizer.schedule.warmup=0"}) {
      settings.emplace_back(own);
    }
    const Recipe recipe = read_recipe(Config::from_text(kLanguageModelRecipe), settings, all_tasks());
    const RunConfig& config = recipe.arms[0].config;
    ProgressLine quiet(true);
    TaskInputs inputs = inputs_for(config, quiet);
    inputs.ranks = ranks;
    inputs.tables = training_tables(cache_.path() / "tables" / std::to_string(ranks.rank), false, ranks);
    auto task = config.plan->make(inputs);
    OptimizerSet optimizers(task->dense_parameters(), config.optimizer, task->tables(), seed_,
                            ranks.size > 1 ? sum_over(ranks) : Reduce());
    return {std::move(task), std::move(optimizers), config.train.accumulation};
  }

  Trained train(const std::vector<std::string>& settings, const Ranks& ranks) {
    Rank rank = make(settings, ranks);
    const auto& task = rank.task;
    Trained trained;
    for (int64_t step = 0; step < 3; ++step) {
      const StepResult made = rank.step(step, ranks);
      EXPECT_TRUE(made.good);
      trained.losses.push_back(made.loss);
      task->after_step({step + 1, 3, made.loss}, rank.optimizers);
    }
    trained.evaluated = evaluate(*task, false).values[0];
    for (const NamedParameter& parameter : task->dense_parameters()) trained.dense.push_back(parameter.value.detach());
    for (const auto& [table, options] : task->tables()) trained.rows.push_back(table->store().values().detach());
    return trained;
  }

  void expect_as_alone(const std::vector<std::string>& settings) {
    const Trained alone = train(settings, {});
    EXPECT_NE(alone.losses[0], alone.losses[2]);
    for (const int64_t size : {2, 3}) {
      std::vector<Trained> ranks(static_cast<size_t>(size));
      run_ranks(size, [&](const Ranks& rank) { ranks[static_cast<size_t>(rank.rank)] = train(settings, rank); });
      for (const Trained& rank : ranks) {
        EXPECT_THAT(rank.losses, testing::Pointwise(testing::DoubleNear(1e-5), alone.losses)) << size << " ranks";
        EXPECT_NEAR(rank.evaluated, alone.evaluated, 1e-5);
        for (size_t i = 0; i < alone.dense.size(); ++i) {
          EXPECT_TRUE(torch::allclose(rank.dense[i], alone.dense[i], 1e-4, 1e-6)) << size << " ranks, parameter " << i;
        }
      }
      for (size_t i = 0; i < alone.rows.size(); ++i) {
        std::vector<Tensor> parts;
        for (const Trained& rank : ranks) parts.push_back(rank.rows[i]);
        const int64_t along = parts[0].size(0) == alone.rows[i].size(0) ? 1 : 0;
        EXPECT_TRUE(torch::allclose(torch::cat(parts, along), alone.rows[i], 1e-4, 1e-6))
            << size << " ranks, table " << i;
      }
    }
  }
};

TEST_F(LanguageModelRanks, TrainsAsOneProcessDoes) {
  expect_as_alone({"model.memory.query_norm=layer", "train.batch=5"});
}

TEST_F(LanguageModelRanks, QueriesAreNormalisedOverTheTokensOfAllRanks) {
  expect_as_alone({"model.memory.query_norm=batch", "train.batch=5"});
}

// Micro-batches of one window. (Batch norm of eight tokens of one byte makes much of the rounding of sums.)
TEST_F(LanguageModelRanks, RanksWithoutAWindowWork) {
  expect_as_alone({"model.memory.query_norm=layer", "train.batch=4", "train.accumulation=4"});
  expect_as_alone({"model.memory.query_norm=batch", "train.batch=10", "train.accumulation=2"});
  expect_as_alone({"model.causal=false", "model.memory.query_norm=layer", "train.batch=4", "train.accumulation=4"});
}

TEST_F(LanguageModelRanks, MaskedTokensCountOnce) {
  expect_as_alone({"model.causal=false", "model.memory.query_norm=layer"});
}

TEST_F(LanguageModelRanks, ALossThatIsNotFiniteOnOneRankSkipsTheStepOnAll) {
  run_ranks(2, [&](const Ranks& ranks) {
    Rank rank = make({"model.memory.query_norm=layer"}, ranks);
    EXPECT_TRUE(rank.step(0, ranks).good);
    const Tensor parameter = rank.task->dense_parameters()[0].value.detach(), before = parameter.clone();
    if (ranks.rank == 1) parameter.fill_(std::numeric_limits<float>::quiet_NaN());
    const StepResult made = rank.step(1, ranks);
    EXPECT_FALSE(made.good);
    EXPECT_FALSE(std::isfinite(made.loss));
    EXPECT_TRUE(ranks.rank == 1 || torch::equal(parameter, before));
  });
}

TEST_F(LanguageModelRanks, NgramRowsAreInPartsToo) {
  expect_as_alone({"model.memory.query_norm=layer", "main:model.ngram.rows=40"});
}

TEST_F(LanguageModelRanks, TablesMayBeInPartsByColumns) {
  expect_as_alone({"model.memory.query_norm=layer", "train.batch=5", "model.memory.shard=columns",
                   "main:model.ngram.rows=40", "main:model.ngram.shard=columns"});
  expect_as_alone({"model.memory.query_norm=layer", "model.memory.kind=peer", "model.memory.shard=columns",
                   "model.memory.home=mapped"});
  expect_as_alone({"model.memory.query_norm=layer", "model.memory.shard=auto"});
}

}  // namespace
}  // namespace loci
