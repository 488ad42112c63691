// Legend: T tokens, d width, H heads, w half a key's width.
#include "loci/nn/memory/calibrate.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "loci/table/usage.h"
#include "tests/memory_cases.h"

namespace loci {
namespace {

using at::Tensor;

BuiltMemory<ProductKeyMemory> make_layer(QueryNorm norm, int64_t rows = 4096, int64_t key_width = 16) {
  const ProductKeyMemoryOptions options =
      small_memory([&](auto& o) { o.width = 32, o.top_k = 8, o.key_width = key_width, o.query_norm = norm; });
  auto table = std::make_shared<LocalTable>("values", rows, 32);
  table->store().initialise_normal(1, 1);
  return {table, std::make_shared<ProductKeyMemory>("memory", options, table, 3)};
}

MlpQueryNet& net_of(const ProductKeyMemory& memory) {
  return dynamic_cast<MlpQueryNet&>(*memory.query_net);
}

// Correlated inputs with a large common mean, as real tokens have.
Tensor correlated(int64_t tokens) {
  torch::manual_seed(4);
  const Tensor scale = 1 / at::arange(1, 33, at::kFloat);
  return torch::randn({tokens, 32}) * scale + 3 * torch::randn({32});
}

TEST(Calibrate, WhitensQueriesAndKeepsThemSoForBatchNorm) {
  for (const QueryNorm norm : {QueryNorm::none, QueryNorm::batch}) {
    const auto [table, memory] = make_layer(norm);
    const Tensor x = correlated(3000);
    calibrate(*memory, x, {.seed = 5, .least_variance = 1e-9});
    memory->eval();
    const Tensor query = memory->query(x).detach().to(at::kDouble);  // [T, H, 2, w]
    EXPECT_LT(query.mean(0).abs().max().item<double>(), 1e-3);
    const Tensor half = query.select(1, 1).select(1, 0);
    const Tensor covariance = at::matmul(half.t(), half) / 3000;
    EXPECT_LT((covariance - at::eye(8, at::kDouble)).abs().max().item<double>(), 1e-2);
  }
}

TEST(Calibrate, KeysAreRealHalfQueriesOfLengthOneAndValuesAreZeroInPlace) {
  const auto [table, memory] = make_layer(QueryNorm::layer);
  const void* storage = table->store().values().const_data_ptr();
  const Tensor x = correlated(500);
  calibrate(*memory, x, {.seed = 5});
  const Tensor query = memory->query(x).detach();
  const Tensor half = query.select(1, 1).select(1, 0);  // [T, w] of head 1, first half
  const Tensor unit = half / half.norm(2, 1, true);
  const Tensor keys = memory->keys1.detach()[1];                // [n1, w]
  const Tensor nearest = at::matmul(keys, unit.t()).argmax(1);  // [n1]
  EXPECT_TRUE(torch::allclose(keys, unit.index_select(0, nearest), 1e-4, 1e-5));
  EXPECT_EQ(std::get<0>(at::_unique(nearest)).numel(), keys.size(0));  // without replacement
  EXPECT_TRUE(torch::equal(table->store().values(), at::zeros_like(table->store().values())));
  EXPECT_EQ(table->store().values().const_data_ptr(), storage);
}

TEST(Calibrate, FewerTokensThanSubKeysGiveDistinctKeysOfLengthOne) {
  const auto [table, memory] = make_layer(QueryNorm::layer);
  calibrate(*memory, correlated(20), {.seed = 5});
  for (const Tensor& keys : {memory->keys1.detach()[0], memory->keys2.detach()[1]}) {
    EXPECT_TRUE(torch::allclose(keys.norm(2, 1), at::ones({keys.size(0)}), 1e-5, 1e-6));
    const Tensor distance = at::cdist(keys, keys) + 10 * at::eye(keys.size(0));
    EXPECT_GT(distance.min().item<double>(), 1e-3);
  }
}

TEST(Calibrate, WiderHalvesThanInputsAreFilled) {
  const auto [table, memory] = make_layer(QueryNorm::layer, 100, 90);
  calibrate(*memory, correlated(300), {.seed = 5});
  EXPECT_TRUE(net_of(*memory).weight[0].isfinite().all().item<bool>());
  EXPECT_GT(net_of(*memory).weight[0].detach().norm(2, 1).min().item<double>(), 0);
}

TEST(Calibrate, RaisesUsage) {
  for (const QueryNorm norm : {QueryNorm::layer, QueryNorm::batch}) {
    const auto [table, memory] = make_layer(norm);
    const Tensor x = correlated(4000);
    const torch::NoGradGuard guard;
    memory->eval();
    const auto measured = [&] {
      const auto usage = std::make_shared<Usage>(table->rows());
      const ObserverScope counting(*memory, usage);
      memory->forward(x);
      return usage->metrics();
    };
    const UsageMetrics before = measured();
    calibrate(*memory, x, {.seed = 5});
    const UsageMetrics after = measured();
    EXPECT_GT(after.usage, 0.8);
    EXPECT_GT(after.usage, before.usage + 0.2);
    EXPECT_LT(after.kl, before.kl / 2);
  }
}

TEST(Calibrate, SameBitsForAnyThreadCountAndSeedDecides) {
  const int before = at::get_num_threads();
  const Tensor x = correlated(2000);
  const auto run = [&](int threads, uint64_t seed) {
    at::set_num_threads(threads);
    const auto [table, memory] = make_layer(QueryNorm::batch);
    calibrate(*memory, x, {.seed = seed});
    EXPECT_EQ(at::get_num_threads(), threads);
    return at::cat({memory->keys1.flatten(), memory->keys2.flatten(), net_of(*memory).weight[0].flatten(),
                    net_of(*memory).bias[0], memory->norm.running_variance.flatten()})
        .detach();
  };
  const Tensor first = run(1, 5);
  for (const int threads : {2, 3, 8}) EXPECT_TRUE(torch::equal(first, run(threads, 5))) << threads;
  EXPECT_FALSE(torch::equal(first, run(1, 6)));
  at::set_num_threads(before);
}

// The queries that become keys must not move the running statistics.
TEST(Calibrate, GivesTheSameBitsInTrainingAndEvaluation) {
  const Tensor x = correlated(500);
  const auto [table, trained] = make_layer(QueryNorm::batch);
  const auto [other_table, evaluated] = make_layer(QueryNorm::batch);
  evaluated->eval();
  calibrate(*trained, x, {.seed = 5});
  calibrate(*evaluated, x, {.seed = 5});
  EXPECT_TRUE(trained->is_training());
  EXPECT_TRUE(torch::equal(trained->keys1, evaluated->keys1));
  EXPECT_TRUE(torch::equal(trained->norm.running_variance, evaluated->norm.running_variance));
}

TEST(Calibrate, WhatCannotBeCalibratedIsRefused) {
  const auto [table, memory] = make_layer(QueryNorm::layer);
  EXPECT_THROW(calibrate(*memory, correlated(1), {}), Error);
  EXPECT_THROW(calibrate(*memory, at::ones({10, 31}), {}), Error);
  EXPECT_THROW(calibrate(*memory, at::full({10, 32}, NAN), {}), Error);
  ProductKeyMemoryOptions options;
  options.width = 32;
  options.query_hidden = {4};
  ProductKeyMemory deep("memory", options, table, 3);
  EXPECT_THROW(calibrate(deep, correlated(50), {}), Error);
  options.query_hidden = {};
  ProductKeyMemory bare("memory", options, table, 3, std::make_shared<IdentityQueryNet>());
  EXPECT_THROW(calibrate(bare, correlated(50), {}), Error);
  calibrate(*memory, at::ones({10, 32}), {});  // all inputs alike: finite
  EXPECT_TRUE(net_of(*memory).weight[0].isfinite().all().item<bool>());
}

}  // namespace
}  // namespace loci
