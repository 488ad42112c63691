#include "loci/optim/seed_adam.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "loci/base/check.h"

namespace loci {
namespace {

using at::Tensor;

struct SeedModel {
  Tensor parameters;  // [S, P]
  explicit SeedModel(int64_t seeds) {
    torch::manual_seed(4);
    parameters = torch::randn({seeds, 37});
  }
  // Steps of all seeds with gradients that depend on the step alone.
  void train(SeedAdam& rule, const std::vector<int64_t>& seeds, int64_t steps, double noise = 0) const {
    for (int64_t step = 0; step < steps; ++step) {
      torch::manual_seed(100 + step);
      const Tensor gradient = torch::randn({8, 37});
      std::vector<Tensor> list;
      for (const int64_t seed : seeds) {
        list.push_back(rule.of(seed));
        list.back().mutable_grad() = gradient[seed].clone();
      }
      rule.set_noise(noise, step);
      rule.step(list, 1e-2, 1);
    }
  }
};

TEST(SeedAdam, EqualsAdamOfTheFramework) {
  const SeedModel model(1);
  Tensor plain = model.parameters[0].clone().requires_grad_();
  torch::optim::Adam theirs({plain}, torch::optim::AdamOptions(1e-2));
  SeedAdam ours(model.parameters, {0}, {});
  for (int64_t step = 0; step < 6; ++step) {
    torch::manual_seed(100 + step);
    plain.mutable_grad() = torch::randn({8, 37})[0].clone();
    theirs.step();
  }
  model.train(ours, {0}, 6);
  EXPECT_LT((plain - model.parameters[0]).abs().max().item<double>(), 2e-6);
  EXPECT_EQ(ours.updates(0), 6);
}

TEST(SeedAdam, ASeedHasTheSameBitsAloneAndBesideOthersForAnyThreadCount) {
  const int threads = at::get_num_threads();
  const SeedModel together(8);
  SeedAdam all(together.parameters, {5, 6, 7, 8, 9, 10, 11, 12}, {.clip_norm = 2});
  at::set_num_threads(3);
  together.train(all, {0, 1, 2, 3, 4, 5, 6, 7}, 5, 0.1);
  at::set_num_threads(1);
  const SeedModel apart(8);
  SeedAdam one(apart.parameters, {5, 6, 7, 8, 9, 10, 11, 12}, {.clip_norm = 2});
  apart.train(one, {6}, 5, 0.1);
  at::set_num_threads(threads);
  EXPECT_TRUE(torch::equal(apart.parameters[6], together.parameters[6]));
  EXPECT_EQ(one.updates(6), 5);
  EXPECT_EQ(one.updates(0), 0);
}

TEST(SeedAdam, EachSeedIsClippedAndRefusedByItself) {
  const SeedModel model(3);
  const Tensor before = model.parameters.clone();
  SeedAdam rule(model.parameters, {0, 1, 2}, {.clip_norm = 1});
  std::vector<Tensor> list;
  for (int64_t seed = 0; seed < 3; ++seed) {
    list.push_back(rule.of(seed));
    list.back().mutable_grad() = torch::full({37}, seed == 2 ? 100.0 : 0.01);
  }
  list[1].mutable_grad()[5] = std::nanf("");
  rule.step(list, 1e-2, 1);
  EXPECT_TRUE(rule.sound(0));
  EXPECT_FALSE(rule.sound(1));
  EXPECT_TRUE(torch::equal(model.parameters[1], before[1]));
  EXPECT_EQ(rule.updates(1), 0);
  EXPECT_FALSE(torch::equal(model.parameters[0], before[0]));
  const double clipped = rule.moment1()[2][0].item<double>() / 0.1;  // (1 - beta1) g
  EXPECT_NEAR(clipped, 1 / std::sqrt(37.0), 1e-6);
  EXPECT_NEAR(rule.moment1()[0][0].item<double>() / 0.1, 0.01, 1e-8);
}

TEST(SeedAdam, DividesItsGradients) {
  const SeedModel a(1), b(1);
  SeedAdam first(a.parameters, {0}, {.clip_norm = 1}), second(b.parameters, {0}, {.clip_norm = 1});
  const Tensor gradient = torch::randn({37});
  first.of(0).mutable_grad() = gradient.clone();
  first.step({first.of(0)}, 1e-2, 1);
  second.of(0).mutable_grad() = gradient * 4;
  second.step({second.of(0)}, 1e-2, 4);
  EXPECT_TRUE(torch::equal(a.parameters, b.parameters));
}

TEST(SeedAdam, ClearsASeed) {
  const SeedModel model(2);
  SeedAdam rule(model.parameters, {0, 1}, {});
  model.train(rule, {0, 1}, 2);
  rule.clear_rows(rule.of(1), torch::tensor({0}), {});
  for (const Tensor& moment : {rule.moment1(), rule.moment2()}) {
    EXPECT_EQ(moment[1].count_nonzero().item<int64_t>(), 0);
    EXPECT_NE(moment[0].count_nonzero().item<int64_t>(), 0);
  }
  EXPECT_EQ(rule.updates(1), 2);
  rule.clear(rule.of(1));
  EXPECT_EQ(rule.moment2()[1].count_nonzero().item<int64_t>(), 0);
  EXPECT_EQ(rule.updates(1), 0);
  EXPECT_EQ(rule.updates(0), 2);
  EXPECT_EQ(rule.state().size(), 3u);
  EXPECT_THROW(rule.clear(model.parameters[0]), Error);
}

}  // namespace
}  // namespace loci
