#include "loci/nn/small/view_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "tests/op_harness.h"

// Legend: B batch, V views, D width of a view.

namespace loci::view_attention_test {
namespace {

using harness::same_bits;
using torch::Tensor;

// Of each number of present views there are rows, none among them.
Tensor some_mask(int64_t B, int64_t V) {
  Tensor mask = torch::rand({B, V}) < 0.6;
  mask[0].fill_(false);
  if (B > 1) mask[1].fill_(true);
  return mask;
}

std::shared_ptr<ViewAttention> drawn_block(int64_t D, int64_t hidden) {
  const auto block = std::make_shared<ViewAttention>("block", D, hidden, 3);
  block->to(torch::kDouble);
  torch::manual_seed(2);
  const torch::NoGradGuard guard;
  for (Tensor& parameter : block->parameters()) parameter.normal_();
  return block;
}

// The formula, one thing and one view after another, with present views alone.
Tensor slow_twin(const ViewAttention& block, const Tensor& views, const Tensor& mask) {
  std::vector<Tensor> rows;
  for (int64_t b = 0; b < views.size(0); ++b) {
    std::vector<Tensor> present, power;
    for (int64_t k = 0; k < views.size(1); ++k) {
      if (!mask[b][k].item<bool>()) continue;
      const Tensor inner = torch::tanh(block.inner_weight.mv(views[b][k]) + block.inner_bias);
      present.push_back(views[b][k]);
      power.push_back(torch::exp(block.score_weight[0].dot(inner)));
    }
    Tensor u = block.default_view;
    if (!present.empty()) {
      const Tensor all = torch::stack(power).sum();
      u = torch::zeros_like(block.default_view);
      for (size_t k = 0; k < present.size(); ++k) u = u + power[k] / all * present[k];
    }
    rows.push_back(u / u.square().sum().sqrt());
  }
  return torch::stack(rows);
}

TEST(ViewAttention, IsItsFormulaAndSoAreItsGradients) {
  for (const auto& [B, V, D] : {std::tuple(6, 3, 5), std::tuple(9, 1, 4), std::tuple(5, 7, 2), std::tuple(1, 2, 3)}) {
    const auto block = drawn_block(D, 4);
    const Tensor mask = some_mask(B, V), grad = torch::randn({B, D}, torch::kDouble);
    const Tensor views = torch::randn({B, V, D}, torch::kDouble).requires_grad_();
    std::vector<Tensor> inputs = block->parameters();
    inputs.push_back(views);
    const Tensor got = block->forward(views, mask), expected = slow_twin(*block, views, mask);
    EXPECT_TRUE(torch::allclose(got, expected, 0, 1e-12)) << B << " " << V << " " << D;
    EXPECT_TRUE(torch::allclose(got.norm(2, 1), torch::ones({B}, torch::kDouble)));
    const auto unused = [](std::vector<Tensor> grads, const std::vector<Tensor>& of) {
      for (size_t i = 0; i < grads.size(); ++i) {
        if (!grads[i].defined()) grads[i] = torch::zeros_like(of[i]);
      }
      return grads;
    };
    const auto found = unused(torch::autograd::grad({got}, inputs, {grad}, {}, false, true), inputs);
    const auto wanted = unused(torch::autograd::grad({expected}, inputs, {grad}, {}, false, true), inputs);
    for (size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(torch::allclose(found[i], wanted[i], 0, 1e-11)) << i;
  }
}

TEST(ViewAttention, WeightsAreAProbabilityOverPresentViews) {
  const auto block = drawn_block(5, 4);
  const Tensor mask = some_mask(8, 4), views = torch::randn({8, 4, 5}, torch::kDouble);
  const Tensor alpha = block->forward_with_weights(views, mask).second;
  EXPECT_TRUE(torch::allclose(alpha.sum(1), mask.any(1).to(torch::kDouble)));
  EXPECT_TRUE(torch::equal(alpha > 0, mask));
  EXPECT_GT(alpha[1].max().item<double>() - alpha[1].min().item<double>(), 0.05);
}

TEST(ViewAttention, TheOrderOfViewsPlaysNoPart) {
  const auto block = drawn_block(6, 8);
  const Tensor mask = some_mask(20, 5), views = torch::randn({20, 5, 6}, torch::kDouble);
  const auto [u, alpha] = block->forward_with_weights(views, mask);
  for (int round = 0; round < 4; ++round) {
    const Tensor order = torch::randperm(5);
    const auto [moved, weights] =
        block->forward_with_weights(views.index_select(1, order), mask.index_select(1, order));
    EXPECT_TRUE(torch::allclose(moved, u, 0, 1e-14));
    EXPECT_TRUE(torch::allclose(weights, alpha.index_select(1, order), 0, 1e-14));
  }
}

TEST(ViewAttention, WhatStandsInAnAbsentViewChangesNoBit) {
  for (const auto type : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    ViewAttention block("block", 17, 9, 1);
    torch::manual_seed(4);
    const Tensor mask = some_mask(30, 4), drawn = torch::randn({30, 4, 17}, type);
    std::vector<Tensor> expected;
    const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
    for (const double content : {0.0, 1.0, -1e30, inf, -inf, nan}) {
      const Tensor views = torch::where(mask.unsqueeze(-1), drawn, content).to(type).requires_grad_();
      const auto [u, alpha] = block.forward_with_weights(views, mask);
      std::vector<Tensor> inputs = block.parameters();
      inputs.push_back(views);
      std::vector<Tensor> found = torch::autograd::grad({u}, inputs, {torch::ones_like(u)});
      EXPECT_EQ(u.scalar_type(), type);
      EXPECT_TRUE(u.isfinite().all().item<bool>()) << content;
      EXPECT_EQ(found.back().masked_select(mask.logical_not().unsqueeze(-1)).count_nonzero().item<int64_t>(), 0);
      found.push_back(u.detach());
      found.push_back(alpha.detach());
      if (expected.empty()) expected = found;
      for (size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(same_bits(found[i], expected[i])) << content << " " << i;
    }
  }
}

TEST(ViewAttention, WithoutAViewTheDefaultStandsAtLengthOne) {
  ViewAttention block("block", 8, 4, 1);
  const torch::autograd::DetectAnomalyGuard no_nan_in_backward(/*check_nan=*/true);
  const Tensor views = torch::full({3, 2, 8}, std::nan("")), none = torch::zeros({3, 2}, torch::kBool);
  const Tensor u = block.forward(views, none);
  const Tensor expected = block.default_view / block.default_view.norm();
  for (int64_t b = 0; b < 3; ++b) EXPECT_TRUE(torch::allclose(u[b], expected));
  u.select(1, 0).sum().backward();
  EXPECT_GT(block.default_view.grad().abs().max().item<float>(), 0);
  for (const Tensor& parameter : {block.inner_weight, block.inner_bias, block.score_weight}) {
    EXPECT_EQ(parameter.grad().count_nonzero().item<int64_t>(), 0);
  }
  EXPECT_TRUE(torch::equal(block.forward(torch::empty({3, 0, 8}), torch::empty({3, 0}, torch::kBool)), u));
  EXPECT_EQ(block.forward(torch::empty({0, 2, 8})).sizes(), (std::vector<int64_t>{0, 8}));
}

TEST(ViewAttention, WithoutAMaskAllViewsArePresent) {
  ViewAttention block("block", 8, 4, 1);
  const Tensor views = torch::randn({3, 2, 8});
  EXPECT_TRUE(torch::equal(block.forward(views), block.forward(views, torch::ones({3, 2}, torch::kBool))));
}

TEST(ViewAttention, SaysWhatItExpected) {
  const ViewAttention block("block", 8, 4, 1);
  const auto message = [&](const Tensor& views, const Tensor& mask) {
    return harness::message_of([&] { block.forward(views, mask); });
  };
  EXPECT_THAT(message(torch::randn({3, 8}), {}), testing::HasSubstr("views must be [B, V, 8]"));
  EXPECT_THAT(message(torch::ones({3, 2, 8}, torch::kLong), {}), testing::HasSubstr("of a floating type, got"));
  EXPECT_THAT(message(torch::randn({3, 2, 8}), torch::ones({3, 3}, torch::kBool)),
              testing::HasSubstr("mask must be bool [3, 2], got Bool [3, 3]"));
  EXPECT_THAT(message(torch::randn({3, 2, 8}), torch::ones({3, 2})), testing::HasSubstr("got Float [3, 2]"));
  EXPECT_THAT(harness::message_of([] { ViewAttention("block", 0, 4, 1); }),
              testing::HasSubstr("at least 1, got 0 and 4"));
}

TEST(DropViews, LeavesOutTheShareByCounterAndAddsNone) {
  const Tensor mask = torch::rand({5000, 3}, torch::kDouble) < 0.8;
  const Tensor kept = drop_views(mask, 0.25, 7, "views", 30);
  EXPECT_FALSE(kept.logical_and(mask.logical_not()).any().item<bool>());
  const double share = kept.sum().item<double>() / mask.sum().item<double>();
  EXPECT_NEAR(share, 0.75, 0.02);
  EXPECT_TRUE(kept.any(1).logical_not().logical_and(mask.any(1)).any().item<bool>());  // all views of a thing may go
  // A batch may be cut anywhere.
  const Tensor head = drop_views(mask.slice(0, 0, 12), 0.25, 7, "views", 30);
  const Tensor tail = drop_views(mask.slice(0, 12), 0.25, 7, "views", 30 + 12 * 3);
  EXPECT_TRUE(torch::equal(torch::cat({head, tail}), kept));
  EXPECT_FALSE(torch::equal(drop_views(mask, 0.25, 8, "views", 30), kept));
  EXPECT_FALSE(torch::equal(drop_views(mask, 0.25, 7, "other", 30), kept));
  EXPECT_TRUE(torch::equal(drop_views(mask, 0, 7, "views", 0), mask));
  EXPECT_FALSE(drop_views(mask, 1, 7, "views", 0).any().item<bool>());
  EXPECT_TRUE(
      torch::equal(drop_views(mask.t(), 0.25, 7, "views", 0), drop_views(mask.t().contiguous(), 0.25, 7, "views", 0)));
}

TEST(DropViews, SaysWhatItExpected) {
  const Tensor mask = torch::ones({2, 3}, torch::kBool);
  const auto message = [](const Tensor& m, double share, int64_t first) {
    return harness::message_of([&] { drop_views(m, share, 0, "", first); });
  };
  EXPECT_THAT(message(torch::ones({2, 3}), 0, 0), testing::HasSubstr("mask must be bool [B, V] on the CPU, got Float"));
  EXPECT_THAT(message(mask, 1.5, 0), testing::HasSubstr("share must be from 0 to 1, got 1.5"));
  EXPECT_THAT(message(mask, std::nan(""), 0), testing::HasSubstr("share must be from 0 to 1"));
  EXPECT_THAT(message(mask, 0, -1), testing::HasSubstr("first must be at least 0, got -1"));
}

TEST(PairScore, IsGainTimesTheProductPlusBias) {
  PairScore score(4);
  {
    const torch::NoGradGuard guard;
    score.bias.fill_(0.5);
  }
  torch::manual_seed(1);
  const Tensor a = torch::randn({5, 3}), b = torch::randn({5, 3});
  const Tensor pairs = score.forward(a, b), all = score.all_pairs(a, b);
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t j = 0; j < 5; ++j) EXPECT_NEAR(all[i][j].item<float>(), 4 * a[i].dot(b[j]).item<float>() + 0.5, 1e-5);
    EXPECT_NEAR(pairs[i].item<float>(), all[i][i].item<float>(), 1e-5);
  }
  EXPECT_THAT(harness::message_of([&] { score.forward(a, b[0]); }),
              testing::HasSubstr("of the same sizes, got [5, 3] and"));
  EXPECT_THAT(harness::message_of([&] { score.all_pairs(a, b.t()); }), testing::HasSubstr("[M, D] and [N, D], got"));
}

// The lines of docs/small-systems.md.
TEST(ViewAttention, TheExampleOfThePageTrainsEverything) {
  const int64_t step = 3;
  const Tensor names = torch::randn({8, 100}), pictures = torch::randn({8, 512}), mask = torch::rand({8, 2}) < 0.8;
  const Tensor related = torch::randint(0, 2, {8}).to(torch::kFloat);
  ViewAttention attention("attention", /*width=*/32, /*hidden=*/16, /*seed=*/0);
  PairScore score;
  torch::nn::Linear name(100, 32), picture(512, 32);
  const auto encode = [&](const Tensor& of_names, const Tensor& of_pictures, const Tensor& present) {
    const Tensor kept = drop_views(present, 0.1, /*seed=*/0, "dropout", /*first=*/step * present.numel());
    return attention.forward(torch::stack({name(of_names), picture(of_pictures)}, 1), kept);
  };
  const Tensor s = score.forward(encode(names, pictures, mask), encode(names.flip(0), pictures.flip(0), mask.flip(0)));
  torch::binary_cross_entropy_with_logits(s, related).backward();
  for (const auto& parameters :
       {attention.parameters(), score.parameters(), name->parameters(), picture->parameters()}) {
    for (const Tensor& parameter : parameters) EXPECT_TRUE(parameter.grad().defined());
  }
}

// Of two views of a sign one is noise, and only the size of its last entry tells which.
TEST(ViewAttention, LearnsWhichViewToTrust) {
  torch::manual_seed(5);
  ViewAttention block("block", 3, 8, 1);
  torch::optim::Adam optimizer(block.parameters(), torch::optim::AdamOptions(0.03));
  const auto draw = [](int64_t count) {
    const Tensor sign = torch::randint(0, 2, {count}).to(torch::kFloat) * 2 - 1, good = torch::randint(0, 2, {count});
    Tensor views = torch::randn({count, 2, 3}) * 0.1;
    const Tensor trusted = torch::nn::functional::one_hot(good, 2).to(torch::kFloat);
    views.select(2, 0).add_(torch::where(trusted > 0, sign.unsqueeze(1), torch::randn({count, 2}).sign() * 1.5));
    views.select(2, 2).add_(trusted);
    return std::tuple(views, sign, trusted);
  };
  for (int step = 0; step < 200; ++step) {
    const auto [views, sign, trusted] = draw(64);
    optimizer.zero_grad();
    torch::nn::functional::softplus(-4 * sign * block.forward(views).select(1, 0)).mean().backward();
    optimizer.step();
  }
  const auto [views, sign, trusted] = draw(1000);
  const auto [u, alpha] = block.forward_with_weights(views);
  EXPECT_GT((alpha * trusted).sum().item<double>() / 1000, 0.9);
  EXPECT_GT((u.select(1, 0) * sign > 0).to(torch::kFloat).mean().item<double>(), 0.97);
}

}  // namespace
}  // namespace loci::view_attention_test
