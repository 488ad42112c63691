#include "loci/nn/small/reel_layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/random.h"
#include "loci/nn/initialise.h"
#include "loci/optim/optimizer_set.h"
#include "tests/op_harness.h"

// Legend: K reels.

namespace loci::reel_layers_test {
namespace {

using harness::same_bits;
using torch::Tensor;

std::shared_ptr<ReelLinear> linear(const ReelOptions& options = {}, uint64_t seed = 3) {
  return std::make_shared<ReelLinear>("layer", 20, 30, options, seed);
}

OptimizerSet optimizers_of(const NamedParameter& parameter, double rate = 1, double momentum = 0.9) {
  const DenseOptimizerOptions options{.kind = DenseRule::sgd,
                                      .learning_rate = rate,
                                      .momentum = momentum,
                                      .weight_decay = 1e-3,
                                      .clip_norm = 0,
                                      .schedule = {.kind = ScheduleKind::constant, .warmup = 0}};
  return {{parameter}, options, {}, 0};
}

// Regression onto a plane; returns the losses.
std::vector<double> train(ReelLinear& layer, OptimizerSet& optimizers, int64_t steps) {
  torch::manual_seed(9);
  const Tensor truth = 0.2 * torch::randn({20, 30});
  std::vector<double> losses;
  for (int64_t step = 0; step < steps; ++step) {
    const Tensor x = torch::randn({64, 20});
    const Tensor loss = (layer.forward(x) - x.matmul(truth)).square().sum(1).mean();
    losses.push_back(loss.item<double>());
    loss.backward();
    optimizers.step(step, steps);
  }
  return losses;
}

TEST(ReelLayers, AWeightIsTheValueOfItsGreatestScore) {
  torch::manual_seed(0);
  const auto layer = linear();
  const Tensor x = torch::randn({4, 20});
  const Tensor best = layer->weight->scores.argmax(0, true), values = layer->weight->values();
  const Tensor w = values.gather(0, best)[0];
  EXPECT_TRUE(same_bits(layer->forward(x), at::linear(x, w)));
  EXPECT_LT(values.abs().max().item<double>(), std::sqrt(2.0 / 50));
  EXPECT_GT(values.abs().max().item<double>(), 0.99 * std::sqrt(2.0 / 50));
  const Tensor& scores = layer->weight->scores;
  const double half = 0.05 * std::sqrt(2.0 / 50);
  EXPECT_TRUE(same_bits(scores.detach(), uniform_start(3, "layer.weight.scores", scores.sizes(), half).add_(half)));
  EXPECT_TRUE(same_bits(values, reel_values(w, 8, {3, stream_of("layer.weight"), std::sqrt(2.0 / 50)})));
  EXPECT_GE(scores.min().item<double>(), 0);
  EXPECT_LE(scores.max().item<double>(), 0.1 * std::sqrt(2.0 / 50));

  const auto convolution = std::make_shared<ReelConv2d>("layer", 3, 5, 3, ReelOptions{.spread = 1}, 3);
  const Tensor map = torch::randn({2, 3, 6, 7}), kernel = convolution->weight->found();
  EXPECT_TRUE(same_bits(convolution->forward(map), at::conv2d(map, kernel, {}, 1, 1)));
  EXPECT_NEAR(ReelWeight::bound(kernel.sizes()), std::sqrt(2.0 / (9 * 8)), 1e-12);
}

TEST(ReelLayers, ValuesHaveTheSameBitsBeforeAndAfterTraining) {
  for (const ReelChoice choice : {ReelChoice::greedy, ReelChoice::sampled}) {
    const auto layer = linear({.choice = choice});
    const Tensor before = layer->weight->values().clone();
    EXPECT_EQ(layer->weight->moved(), 0);
    auto optimizers = optimizers_of(layer->weight->parameter("weight"));
    const std::vector<double> losses = train(*layer, optimizers, 60);
    EXPECT_LT(losses.back(), 0.8 * losses.front());
    EXPECT_GT(layer->weight->moved(), 0.2);
    EXPECT_LT(layer->weight->moved(), 1);
    EXPECT_TRUE(same_bits(layer->weight->values(), before));
    EXPECT_TRUE(same_bits(linear()->weight->values(), before));
    const Tensor used = layer->weight->found().unsqueeze(0).eq(before).any(0);
    EXPECT_TRUE(used.all().item<bool>());
  }
}

TEST(ReelLayers, FrozenLayersHaveTheSameBits) {
  torch::manual_seed(1);
  const auto layer = linear();
  auto optimizers = optimizers_of(layer->weight->parameter("weight"));
  train(*layer, optimizers, 5);
  const Tensor x = torch::randn({7, 20});
  torch::nn::Linear plain = layer->freeze();
  EXPECT_TRUE(same_bits(plain->forward(x), layer->forward(x)));
  EXPECT_TRUE(plain->weight.requires_grad());
  const ReelConv2d convolution("c", 4, 6, 5, {}, 0);
  const Tensor map = torch::randn({2, 4, 8, 9});
  torch::nn::Conv2d frozen = convolution.freeze();
  EXPECT_TRUE(same_bits(frozen->forward(map), at::conv2d(map, convolution.weight->found(), {}, 1, 2)));
}

// The update without a gradient of the scores does as the framework's SGD with it, within roundings.
TEST(ReelLayers, TheParameterTrainsAsItsScoresWould) {
  for (const bool chosen_only : {false, true}) {
    const auto layer = linear({.chosen_only = chosen_only}), twin = linear({.chosen_only = chosen_only});
    auto fused = optimizers_of(layer->weight->parameter("weight"));
    auto plain = optimizers_of({.name = "scores", .value = twin->weight->scores});
    train(*layer, fused, 4);
    train(*twin, plain, 4);
    EXPECT_TRUE(torch::allclose(layer->weight->scores, twin->weight->scores.detach(), 1e-5, 1e-7)) << chosen_only;
    EXPECT_FALSE(layer->weight->scores.grad().defined());
    EXPECT_TRUE(same_bits(layer->weight->forward(), layer->weight->found()));
  }
}

TEST(ReelLayers, ScoresThatAreWrittenAreChosenFromAgain) {
  const auto layer = linear(), other = linear({}, 4);
  layer->weight->parameter("weight");
  layer->forward(torch::randn({1, 20}));
  {
    const torch::NoGradGuard guard;
    layer->weight->scores.copy_(other->weight->scores);
    layer->weight->key.copy_(other->weight->key);
  }
  EXPECT_TRUE(same_bits(layer->weight->forward(), other->weight->found()));
}

TEST(ReelLayers, DrawsDifferInTrainingAndAreGreedyInEvaluation) {
  for (const bool own : {false, true}) {
    const auto layer = linear({.choice = ReelChoice::sampled}), same = linear({.choice = ReelChoice::sampled});
    if (own) layer->weight->parameter("weight");
    const Tensor first = layer->weight->forward().detach().clone();
    EXPECT_TRUE(same_bits(first, same->weight->forward()));
    EXPECT_EQ(layer->weight->draws.item<int64_t>(), 1);
    EXPECT_FALSE(!own && same_bits(layer->weight->forward(), first));
    layer->eval();
    EXPECT_TRUE(same_bits(layer->weight->forward(), layer->weight->found()));
    layer->train();
    EXPECT_FALSE(same_bits(layer->weight->forward(), first));
  }
}

TEST(ReelLayers, OneReelIsANetworkOfFixedWeights) {
  const auto layer = linear({.reels = 1});
  const Tensor before = layer->weight->found().clone();
  auto optimizers = optimizers_of(layer->weight->parameter("weight"));
  train(*layer, optimizers, 3);
  EXPECT_TRUE(same_bits(layer->weight->forward(), before));
  EXPECT_EQ(layer->weight->moved(), 0);
  EXPECT_TRUE(same_bits(before, layer->weight->values()[0]));
}

TEST(ReelLayers, RefuseBadInputInThreeParts) {
  using ::testing::HasSubstr;
  EXPECT_THAT(harness::message_of([] { linear({.reels = 0}); }),
              HasSubstr("layer.weight: reels must be 1 to 256, got 0"));
  EXPECT_THAT(harness::message_of([] { linear({.reels = 257}); }), HasSubstr("got 257"));
  EXPECT_THAT(harness::message_of([] { linear({.spread = -1}); }), HasSubstr("spread must be 0 or more, got -1"));
  EXPECT_THAT(harness::message_of([] { ReelLinear("layer", 0, 3, {}, 0); }),
              HasSubstr("layer: inputs and outputs must be at least 1, got 0 and 3"));
  EXPECT_THAT(harness::message_of([] { ReelConv2d("layer", 3, 3, 2, {}, 0); }),
              HasSubstr("the edge odd, got 3, 3 and 2"));
  EXPECT_THAT(harness::message_of([] { linear()->forward(torch::zeros({2, 21})); }),
              HasSubstr("ReelLinear: x must be [.., 20] of a floating type, got [2, 21]"));
  EXPECT_THAT(harness::message_of([] { ReelConv2d("c", 3, 3, 3, {}, 0).forward(torch::zeros({2, 3, 4})); }),
              HasSubstr("ReelConv2d: x must be [B, 3, height, width]"));
}

}  // namespace
}  // namespace loci::reel_layers_test
