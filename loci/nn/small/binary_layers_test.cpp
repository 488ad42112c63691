#include "loci/nn/small/binary_layers.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "loci/ops/binary_linear/binary_linear.h"
#include "loci/optim/optimizer_set.h"
#include "tests/op_harness.h"

// Legend: B batch, C channels, K inputs, O outputs.

namespace loci {
namespace {

using torch::Tensor;

Tensor signs(at::IntArrayRef sizes) {
  return straight_through_sign(torch::randn(sizes));
}

TEST(BinaryLayers, LinearIsThePackedProduct) {
  torch::manual_seed(0);
  for (const int64_t K : {1, 63, 64, 100, 513}) {
    const BinaryLinear layer("layer", K, 7, 3);
    const Tensor x = signs({5, K});
    const Tensor packed = binary_linear(sign_pack(x), sign_pack(layer.weight.detach()), K);
    EXPECT_TRUE(torch::equal(layer.forward(x), packed.to(torch::kFloat))) << K;
  }
}

TEST(BinaryLayers, WeightsStartWithinOneByTheirSeedAndName) {
  const BinaryLinear layer("layer", 40, 50, 3), same("layer", 40, 50, 3), other("other", 40, 50, 3);
  EXPECT_TRUE(torch::equal(layer.weight, same.weight));
  EXPECT_FALSE(torch::equal(layer.weight, other.weight));
  EXPECT_LE(layer.weight.abs().max().item<float>(), 1);
  EXPECT_GT(layer.weight.abs().max().item<float>(), 0.95);
  EXPECT_NEAR(layer.weight.mean().item<double>(), 0, 0.06);
}

// The gradient of sign(W) as it is: weights outside of [-1, 1] get theirs too.
TEST(BinaryLayers, WeightsGetTheGradientOfTheirSigns) {
  torch::manual_seed(1);
  const BinaryLinear layer("layer", 6, 4, 0);
  {
    const torch::NoGradGuard guard;
    layer.weight.mul_(3);
  }
  const Tensor x = torch::randn({5, 6}).requires_grad_(), grad = torch::randn({5, 4});
  const auto got = torch::autograd::grad({layer.forward(x)}, {x, layer.weight}, {grad});
  EXPECT_TRUE(torch::allclose(got[0], grad.mm(straight_through_sign(layer.weight).detach())));
  EXPECT_TRUE(torch::allclose(got[1], grad.t().mm(x.detach())));
}

// A loop over patches, as another implementation.
TEST(BinaryLayers, ConvolutionHasABorderOfOnes) {
  torch::manual_seed(2);
  for (const double border : {1.0, -255.0}) {
    const BinaryConv2d layer("layer", 3, 4, 3, 0, border);
    const Tensor x = signs({2, 3, 4, 5}), w = straight_through_sign(layer.weight).detach();
    const Tensor y = layer.forward(x);
    ASSERT_EQ(y.sizes(), (std::vector<int64_t>{2, 4, 4, 5}));
    Tensor wide = torch::full({2, 3, 6, 7}, border);
    wide.slice(2, 1, 5).slice(3, 1, 6).copy_(x);
    for (int64_t row = 0; row < 4; ++row) {
      for (int64_t column = 0; column < 5; ++column) {
        const Tensor patch = wide.slice(2, row, row + 3).slice(3, column, column + 3);  // [B, C, 3, 3]
        const Tensor expected = patch.reshape({2, 27}).mm(w.reshape({4, 27}).t());
        EXPECT_TRUE(torch::equal(y.select(2, row).select(2, column), expected)) << row << " " << column;
      }
    }
  }
}

// 1,001 and 909 have more bits than a bfloat16.
TEST(BinaryLayers, ProductsAreExactUnderAutocast) {
  const BinaryLinear linear("linear", 1001, 3, 0);
  const BinaryConv2d convolution("convolution", 101, 3, 3, 0);
  {
    const torch::NoGradGuard guard;
    for (const Tensor& weight : {linear.weight, convolution.weight}) weight.fill_(1);
  }
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Tensor y = linear.forward(torch::ones({2, 1001})), map = convolution.forward(torch::ones({1, 101, 4, 4}));
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_TRUE(torch::equal(y, torch::full({2, 3}, 1001.0F))) << y;
  EXPECT_TRUE(torch::equal(map, torch::full({1, 3, 4, 4}, 909.0F))) << map;
}

TEST(BinaryLayers, SampledSignsGoOnFromCallToCallInTrainingAlone) {
  torch::manual_seed(6);
  const Tensor x = torch::randn({6, 5}), more = torch::randn({2, 5});
  StraightThroughSign whole("sign", true, 3), cut("sign", true, 3), other("other", true, 3), plain("sign", false, 3);
  const Tensor y = whole.forward(x), again = whole.forward(more);
  EXPECT_TRUE(torch::equal(y, sampled_sign(x, whole.key, torch::zeros({1}, torch::kLong))));
  EXPECT_TRUE(torch::equal(torch::cat({cut.forward(x.narrow(0, 0, 2)), cut.forward(x.narrow(0, 2, 4))}), y));
  EXPECT_FALSE(torch::equal(other.forward(x), y));
  EXPECT_TRUE(torch::equal(plain.forward(x), straight_through_sign(x)));
  EXPECT_EQ(plain.buffers().size(), 0);
  for (StraightThroughSign* sign : {&whole, &cut}) sign->eval();
  EXPECT_TRUE(torch::equal(cut.forward(x), straight_through_sign(x)));
  cut.train();  // what was drawn is its state
  EXPECT_EQ(cut.drawn.item<int64_t>(), 30);
  EXPECT_TRUE(torch::equal(cut.forward(more), again));
}

TEST(BinaryLayers, TheRuleScalesTheRateAndKeepsWeightsWithinOne) {
  const Tensor matrix = torch::zeros({300, 84}).requires_grad_(), kernel = torch::zeros({8, 4, 3, 3});
  EXPECT_DOUBLE_EQ(binary_parameter("w", matrix).rate, 1 / std::sqrt(1.5 / 384));
  EXPECT_DOUBLE_EQ(binary_parameter("w", kernel).rate, 1 / std::sqrt(1.5 / (9 * 12)));
  const double rate = binary_parameter("w", matrix).rate;
  OptimizerSet set({binary_parameter("w", matrix)},
                   {.kind = DenseRule::sgd,
                    .learning_rate = 0.03,
                    .momentum = 0,
                    .weight_decay = 0.5,
                    .clip_norm = 0,
                    .schedule = {.kind = ScheduleKind::constant, .warmup = 0}},
                   {}, 0);
  matrix.mutable_grad() = torch::full({300, 84}, -0.5F);
  set.step(0, 10);
  EXPECT_NEAR(matrix[0][0].item<double>(), 0.03 * rate * 0.5, 1e-6);
  for (int64_t step = 1; step < 5; ++step) {
    matrix.mutable_grad() = torch::full({300, 84}, -0.5F);
    set.step(step, 10);
  }
  EXPECT_EQ(matrix[0][0].item<float>(), 1);
}

TEST(BinaryLayers, SquaredHingeIsZeroBeyondTheMargin) {
  const Tensor score = torch::tensor({{1.5F, -1.0F, -0.5F}, {0.0F, 0.25F, -3.0F}}).requires_grad_();
  const Tensor loss = squared_hinge_loss(score, torch::tensor({0, 2}, torch::kLong));
  EXPECT_NEAR(loss.item<double>(), (0.25 + 1 + 1.25 * 1.25 + 16) / 6, 1e-6);
  const Tensor grad = torch::autograd::grad({loss}, {score})[0];
  EXPECT_EQ(grad[0][0].item<float>(), 0);
  EXPECT_NEAR(grad[0][2].item<double>(), 2 * 0.5 / 6, 1e-6);
  EXPECT_NEAR(grad[1][2].item<double>(), -2 * 4.0 / 6, 1e-6);
}

// The network of docs/small-systems.md on 300 vectors whose class is their largest block of entries: chance is 1 / 10.
TEST(BinaryLayers, ANetworkOfSignsLearnsAFewClasses) {
  torch::manual_seed(4);
  const auto hidden = std::make_shared<BinaryLinear>("hidden", 40, 64, 0);
  const auto last = std::make_shared<BinaryLinear>("last", 64, 10, 0);
  torch::nn::BatchNorm1d norm(64), last_norm(10);
  const auto scores = [&](const Tensor& x) {
    return last_norm->forward(last->forward(straight_through_sign(norm->forward(hidden->forward(x)))));
  };
  std::vector<NamedParameter> parameters = {binary_parameter("hidden", hidden->weight),
                                            binary_parameter("last", last->weight)};
  for (const auto& p : norm->named_parameters()) parameters.push_back({"norm." + p.key(), p.value(), false});
  for (const auto& p : last_norm->named_parameters()) parameters.push_back({"last_norm." + p.key(), p.value(), false});
  OptimizerSet optimizers(parameters, {.learning_rate = 3e-3, .weight_decay = 0, .clip_norm = 0, .schedule = {}}, {},
                          0);
  const Tensor x = torch::randn({300, 40}), labels = x.view({300, 10, 4}).sum(2).argmax(1);
  for (int64_t step = 0; step < 200; ++step) {
    squared_hinge_loss(scores(x), labels).backward();
    optimizers.step(step, 200);
  }
  EXPECT_GT(scores(x).argmax(1).eq(labels).to(torch::kFloat).mean().item<double>(), 0.7);
}

TEST(BinaryLayers, RefuseBadInputInThreeParts) {
  const BinaryLinear layer("layer", 6, 4, 0);
  const BinaryConv2d convolution("layer", 3, 4, 3, 0);
  EXPECT_THAT(harness::message_of([&] { layer.forward(torch::zeros({2, 5})); }),
              testing::HasSubstr("BinaryLinear: x must be [.., 6] of a floating type, got [2, 5] of Float"));
  EXPECT_THAT(harness::message_of([&] { convolution.forward(torch::zeros({2, 3, 4})); }),
              testing::HasSubstr("BinaryConv2d: x must be [B, 3, height, width] of a floating type, got [2, 3, 4]"));
  EXPECT_THAT(harness::message_of([] { BinaryConv2d("maps", 3, 4, 2, 0); }),
              testing::HasSubstr("maps: channels and outputs must be at least 1 and the edge odd, got 3, 4 and 2"));
  EXPECT_THAT(
      harness::message_of([] { squared_hinge_loss(torch::zeros({2, 3}), torch::zeros({3}, torch::kLong)); }),
      testing::HasSubstr("squared_hinge_loss: score must be [B, O] and labels [B] of Long, got [2, 3] and [3]"));
}

}  // namespace
}  // namespace loci
