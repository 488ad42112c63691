// The relatives of the non-local block: each against its formula, position by position, in float64.
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include <cmath>
#include <utility>
#include <vector>

#include "loci/nn/relation/criss_cross.h"
#include "loci/nn/relation/efficient_attention.h"
#include "loci/nn/relation/global_context.h"
#include "tests/temporary_folder.h"

namespace loci::relatives_test {
namespace {

using torch::Tensor;

constexpr double kExact = 1e-12;

// Weights and biases everywhere, in float64.
template <class Block>
void draw_parameters(Block& block) {
  torch::manual_seed(3);
  block.to(torch::kDouble);
  const torch::NoGradGuard guard;
  for (Tensor& parameter : block.parameters()) parameter.normal_(0, 0.7);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return weight.mv(x) + bias;
}

// x [B, C, ...] as [B, N, C] and back.
Tensor positions_of(const Tensor& x) {
  return x.flatten(2).transpose(1, 2);
}
Tensor map_of(const Tensor& positions, const Tensor& x) {
  return positions.transpose(1, 2).reshape(x.sizes());
}

template <class Block>
void expect_identity_layout_and_gradient(Block& fresh, Block& drawn, const Tensor& x) {
  EXPECT_TRUE(torch::equal(fresh.forward(x.to(torch::kFloat)), x.to(torch::kFloat)));
  if (x.dim() == 4) {
    const Tensor last = x.contiguous(at::MemoryFormat::ChannelsLast);
    const Tensor z = drawn.forward(last);
    EXPECT_TRUE(z.is_contiguous(at::MemoryFormat::ChannelsLast));
    EXPECT_TRUE(torch::allclose(z, drawn.forward(x), 0, kExact));
  }
  const auto loss = [&](const std::vector<Tensor>& inputs) {
    return std::vector<Tensor>{(drawn.forward(inputs[0]) * torch::cos(x)).sum()};
  };
  const Tensor input = x.clone().requires_grad_();
  loss({input})[0].backward();
  const torch::NoGradGuard guard;
  const Tensor direction = torch::randn_like(x);
  const double step = 1e-5;
  const double difference =
      (loss({x + step * direction})[0] - loss({x - step * direction})[0]).template item<double>() / (2 * step);
  EXPECT_NEAR((input.grad() * direction).sum().template item<double>(), difference, 1e-6 * std::abs(difference) + 1e-7);
  for (const Tensor& parameter : drawn.parameters()) EXPECT_TRUE(parameter.grad().defined());
}

TEST(GlobalContext, IsItsFormula) {
  for (const int64_t dimensions : {1, 2, 3}) {
    GlobalContextOptions options;
    options.channels = 6;
    options.dimensions = dimensions;
    options.ratio = 2;
    GlobalContext block("block", options, 1), fresh("block", options, 1);
    draw_parameters(block);
    std::vector<int64_t> sizes = {2, 6, 3, 5, 2};
    sizes.resize(static_cast<size_t>(dimensions) + 2);
    const Tensor x = torch::randn(sizes, torch::kDouble), positions = positions_of(x);
    Tensor expected = positions.clone();
    const int64_t N = positions.size(1);
    for (int64_t b = 0; b < 2; ++b) {
      const Tensor a = torch::softmax(positions[b].mv(block.key_weight[0]), 0);
      Tensor c = torch::zeros({6}, torch::kDouble);
      for (int64_t j = 0; j < N; ++j) c += a[j] * positions[b][j];
      const Tensor inner = linear(c, block.inner_weight, block.inner_bias);
      const Tensor normed =
          (inner - inner.mean()) / (inner.var(false) + 1e-5).sqrt() * block.norm_gain + block.norm_bias;
      const Tensor message = linear(normed.relu(), block.output_weight, block.output_bias);
      for (int64_t i = 0; i < N; ++i) expected[b][i] += message;
      EXPECT_TRUE(torch::allclose(block.forward_with_map(x).second[b], a, 0, kExact));
    }
    EXPECT_TRUE(torch::allclose(block.forward(x), map_of(expected, x), 0, kExact)) << dimensions;
    expect_identity_layout_and_gradient(fresh, block, x);
  }
}

TEST(CrissCross, IsItsFormula) {
  CrissCrossOptions options;
  options.channels = 5;
  options.inner = 3;
  for (const int64_t passes : {1, 2}) {
    options.passes = passes;
    CrissCross block("block", options, 1), fresh("block", options, 1);
    draw_parameters(block);
    const Tensor x = torch::randn({2, 5, 3, 4}, torch::kDouble);
    Tensor expected = x.clone();
    for (int64_t pass = 0; pass < passes; ++pass) {
      const Tensor positions = positions_of(expected), before = positions.clone();
      Tensor after = positions.clone();
      for (int64_t b = 0; b < 2; ++b) {
        for (int64_t i = 0; i < 12; ++i) {
          std::vector<Tensor> logits, values;
          for (int64_t j = 0; j < 12; ++j) {
            if (i / 4 != j / 4 && i % 4 != j % 4) continue;
            const Tensor query = linear(before[b][i], block.query_weight, block.query_bias);
            logits.push_back(query.dot(linear(before[b][j], block.key_weight, block.key_bias)));
            values.push_back(linear(before[b][j], block.value_weight, block.value_bias));
          }
          ASSERT_EQ(logits.size(), 3 + 4 - 1);
          const Tensor p = torch::softmax(torch::stack(logits), 0);
          after[b][i] += block.gain[0] * torch::stack(values).t().mv(p);
        }
      }
      expected = map_of(after, x);
    }
    EXPECT_TRUE(torch::allclose(block.forward(x), expected, 0, kExact)) << passes;
    expect_identity_layout_and_gradient(fresh, block, x);
  }
}

// After two passes a corner has what the opposite one sent; after one it has not.
TEST(CrissCross, TwoPassesReachEveryPosition) {
  for (const int64_t passes : {1, 2}) {
    CrissCrossOptions options;
    options.channels = 4;
    options.passes = passes;
    CrissCross block("block", options, 1);
    draw_parameters(block);
    const Tensor x = torch::randn({1, 4, 5, 6}, torch::kDouble).requires_grad_();
    block.forward(x).select(3, 0).select(2, 0).sum().backward();
    EXPECT_EQ(x.grad().select(3, 5).select(2, 4).abs().sum().item<double>() > 0, passes == 2);
    EXPECT_GT(x.grad().select(3, 5).select(2, 0).abs().sum().item<double>(), 0);
  }
}

TEST(EfficientAttention, IsItsFormula) {
  for (const int64_t dimensions : {1, 2, 3}) {
    EfficientAttentionOptions options;
    options.channels = 5;
    options.dimensions = dimensions;
    options.inner = 3;
    EfficientAttention block("block", options, 1), fresh("block", options, 1);
    draw_parameters(block);
    std::vector<int64_t> sizes = {2, 5, 4, 3, 2};
    sizes.resize(static_cast<size_t>(dimensions) + 2);
    const Tensor x = torch::randn(sizes, torch::kDouble), positions = positions_of(x);
    Tensor expected = positions.clone();
    const int64_t N = positions.size(1);
    for (int64_t b = 0; b < 2; ++b) {
      const auto all = [&](const Tensor& weight, const Tensor& bias) { return positions[b].matmul(weight.t()) + bias; };
      const Tensor q = torch::softmax(all(block.theta_weight, block.theta_bias), 1);
      const Tensor k = torch::softmax(all(block.phi_weight, block.phi_bias), 0);
      const Tensor g = all(block.g_weight, block.g_bias);
      for (int64_t i = 0; i < N; ++i) {
        Tensor y = torch::zeros({3}, torch::kDouble);
        for (int64_t j = 0; j < N; ++j) y += q[i].dot(k[j]) * g[j];
        expected[b][i] += linear(y, block.output_weight, block.output_bias);
      }
    }
    EXPECT_TRUE(torch::allclose(block.forward(x), map_of(expected, x), 0, kExact)) << dimensions;
    expect_identity_layout_and_gradient(fresh, block, x);
  }
}

template <class Block, class Options>
void expect_autocast(Options options) {
  options.channels = 8;
  Block block("block", options, 1);
  draw_parameters(block);
  block.to(torch::kFloat);
  const Tensor x = torch::randn({2, 8, 3, 4});
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Tensor low = block.forward(x);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  const Tensor exact = block.forward(x);
  EXPECT_EQ(low.scalar_type(), at::kFloat);
  EXPECT_FALSE(torch::equal(low, exact));
  EXPECT_LT((low - exact).square().mean().item<double>(), 1e-3 * exact.var().item<double>());
}

TEST(Relatives, RunUnderAutocast) {
  expect_autocast<GlobalContext>(GlobalContextOptions());
  expect_autocast<CrissCross>(CrissCrossOptions());
  expect_autocast<EfficientAttention>(EfficientAttentionOptions());
}

TEST(Relatives, RefuseWhatDoesNotFit) {
  expect_error(ExitCode::usage, "GlobalContext: channels must be at least 1, got 0",
               [] { GlobalContext("block", {}, 1); });
  GlobalContextOptions context;
  context.channels = 4;
  context.dimensions = 4;
  expect_error(ExitCode::usage, "GlobalContext: dimensions must be 1, 2 or 3, got 4",
               [&] { GlobalContext("block", context, 1); });
  CrissCrossOptions cross;
  cross.channels = 4;
  cross.passes = 0;
  expect_error(ExitCode::usage, "CrissCross: passes must be at least 1, got 0", [&] { CrissCross("block", cross, 1); });
  cross.passes = 1;
  CrissCross block("block", cross, 1);
  EXPECT_THAT([&] { block.forward(torch::ones({1, 4, 3})); },
              testing::ThrowsMessage<c10::Error>(testing::HasSubstr("CrissCross: x must be [B, C, height, width]")));
  EXPECT_THAT([&] { block.forward(torch::ones({1, 3, 2, 2})); },
              testing::ThrowsMessage<c10::Error>(testing::HasSubstr("with C = 4, got [1, 3, 2, 2]")));
}

}  // namespace
}  // namespace loci::relatives_test
