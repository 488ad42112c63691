#include "loci/nn/memory/vector_quantiser.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <vector>

namespace loci {
namespace {

at::Tensor some_vectors(int64_t count, int64_t width, int64_t seed) {
  torch::manual_seed(seed);
  return torch::randn({count, width});
}

// By the definition, one distance after another.
int64_t nearest_code(const at::Tensor& x, const at::Tensor& codes) {
  return (codes - x).square().sum(1).argmin().item<int64_t>();
}

TEST(VectorQuantiserTest, EachVectorBecomesTheNearestCode) {
  VectorQuantiser quantiser("vq", {.codes = 37}, 8, 1);
  quantiser.eval();
  const auto x = some_vectors(50, 8, 2).requires_grad_();
  const Quantised found = quantiser.forward(x);
  for (int64_t t = 0; t < 50; ++t) {
    const auto index = found.index[t].item<int64_t>();
    EXPECT_EQ(index, nearest_code(x.detach()[t], quantiser.codes)) << t;
    EXPECT_TRUE(torch::allclose(found.output[t], quantiser.codes[index], 1e-5, 1e-6));
  }
  EXPECT_NEAR(found.loss.item<double>(),
              0.25 * (x - quantiser.codes.index_select(0, found.index)).square().mean().item<double>(), 1e-6);
  // Straight through: the output's gradient is x's.
  const auto g = some_vectors(50, 8, 3);
  EXPECT_TRUE(torch::autograd::grad({found.output}, {x}, {g})[0].equal(g));
}

TEST(VectorQuantiserTest, EqualCodesGiveTheFirst) {
  VectorQuantiser quantiser("vq", {.codes = 4}, 2, 1);
  quantiser.eval();
  quantiser.codes.fill_(1);
  EXPECT_TRUE(quantiser.forward(torch::ones({3, 2})).index.eq(0).all().item<bool>());
}

// Two passes by hand: code 0 gets two vectors, code 1 one.
TEST(VectorQuantiserTest, CodesFollowTheirVectors) {
  VectorQuantiser quantiser("vq", {.codes = 2, .decay = 0.5, .replace_below = 0}, 1, 1);
  quantiser.codes.copy_(torch::tensor({{0.0}, {10.0}}));
  quantiser.counts.fill_(4);
  quantiser.sums.copy_(torch::tensor({{0.0}, {40.0}}));
  const auto index = quantiser.forward(torch::tensor({{1.0}, {12.0}, {3.0}})).index;
  EXPECT_TRUE(index.equal(torch::tensor({0, 1, 0})));
  EXPECT_TRUE(torch::allclose(quantiser.counts, torch::tensor({3.0, 2.5})));
  EXPECT_TRUE(torch::allclose(quantiser.codes, torch::tensor({{2.0 / 3}, {26 / 2.5}})));
  EXPECT_EQ(quantiser.replaced(), 0);
  const auto before = quantiser.codes.clone();
  quantiser.eval();
  quantiser.forward(torch::tensor({{1.0}}));
  EXPECT_TRUE(quantiser.codes.equal(before));
  quantiser.train();
  quantiser.forward(torch::zeros({0, 1}));
  EXPECT_TRUE(quantiser.codes.equal(before));
}

TEST(VectorQuantiserTest, UnusedCodesBecomeVectorsOfTheBatch) {
  VectorQuantiser quantiser("vq", {.codes = 16}, 4, 1);
  const auto x = some_vectors(64, 4, 5);
  quantiser.forward(x);
  EXPECT_EQ(quantiser.replaced(), 16) << "nothing was used before the first pass";
  quantiser.forward(x);
  EXPECT_EQ(quantiser.replaced(), 0);
  quantiser.counts[3] = 0.01;
  quantiser.counts[7] = 0.2;  // of a mean of about one, above the bar
  quantiser.sums[7] = 0.2 * quantiser.codes[7];
  const auto kept = quantiser.codes[7].clone();
  quantiser.forward(x + 100);
  EXPECT_EQ(quantiser.replaced(), 1);
  EXPECT_GT(quantiser.codes[3].min().item<double>(), 90);
  EXPECT_TRUE(torch::allclose(quantiser.codes[7], kept, 1e-4, 1e-5));
}

// A code that is replaced gets another vector each time, and starts with the mean count, so that it stays near it.
TEST(VectorQuantiserTest, AReplacedCodeStartsAtAVectorOfItsPass) {
  VectorQuantiser quantiser("vq", {.codes = 16}, 4, 1);
  const auto x = 5 * some_vectors(64, 4, 5);
  quantiser.forward(x);
  std::vector<at::Tensor> started;
  for (int pass = 0; pass < 2; ++pass) {
    quantiser.counts.fill_(50);
    quantiser.sums.copy_(50 * quantiser.codes);
    quantiser.counts[3] = 0;
    quantiser.forward(x);
    EXPECT_EQ(quantiser.replaced(), 1);
    started.push_back(quantiser.codes[3].clone());
    EXPECT_LT((x - started.back()).square().sum(1).min().item<double>(), 0.1);
  }
  EXPECT_GT((started[0] - started[1]).abs().max().item<double>(), 0.5);
}

TEST(VectorQuantiserTest, ManyTokensAreTakenInParts) {
  VectorQuantiser quantiser("vq", {.codes = 4096}, 2, 1);
  quantiser.eval();
  const auto x = some_vectors(700, 2, 1);  // 512 at once
  const auto index = quantiser.forward(x).index;
  for (const int64_t t : {0, 511, 512, 699}) EXPECT_EQ(index[t].item<int64_t>(), nearest_code(x[t], quantiser.codes));
}

// Codes that bfloat16 cannot tell apart.
TEST(VectorQuantiserTest, DistancesAreExactUnderAutocast) {
  VectorQuantiser quantiser("vq", {.codes = 16}, 4, 1);
  quantiser.eval();
  quantiser.codes.copy_(3 + 0.05 * torch::arange(16).unsqueeze(1).expand({16, 4}));
  const auto x = quantiser.codes.clone();
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Quantised found = quantiser.forward(x);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_TRUE(found.index.equal(torch::arange(16)));
}

// 16 clusters far apart, and so many codes that the first batch gives each cluster some.
TEST(VectorQuantiserTest, CodesCoverSeparateClusters) {
  VectorQuantiser quantiser("vq", {.codes = 128, .decay = 0.9}, 8, 1);
  const auto centres = 20 * some_vectors(16, 8, 7);
  double error = 0;
  for (int64_t step = 0; step < 60; ++step) {
    const auto x = centres.repeat({8, 1}) + 0.1 * some_vectors(128, 8, 100 + step);
    const Quantised found = quantiser.forward(x);
    error = (found.output - x).square().mean().item<double>();
  }
  EXPECT_LT(error, 0.02);  // the noise's variance is 0.01
}

TEST(VectorQuantiserTest, TheSameSeedGivesTheSameBitsAndBuffersAreTheWholeState) {
  VectorQuantiser first("vq", {.codes = 16}, 4, 3), second("vq", {.codes = 16}, 4, 3);
  first.forward(some_vectors(20, 4, 1));
  for (const auto& buffer : first.named_buffers()) second.named_buffers()[buffer.key()].copy_(buffer.value());
  first.counts[2] = 0;
  second.counts[2] = 0;
  EXPECT_TRUE(first.forward(some_vectors(20, 4, 2)).output.equal(second.forward(some_vectors(20, 4, 2)).output));
  EXPECT_EQ(first.replaced(), 1);
  EXPECT_TRUE(first.codes.equal(second.codes));
  VectorQuantiser other("vq", {.codes = 16}, 4, 4);
  EXPECT_FALSE(other.codes.equal(VectorQuantiser("vq", {.codes = 16}, 4, 3).codes));
}

TEST(VectorQuantiserTest, BatchesInBfloat16KeepCodesInFloat32) {
  VectorQuantiser quantiser("vq", {.codes = 16}, 4, 3);
  const Quantised found = quantiser.forward(some_vectors(20, 4, 1).to(torch::kBFloat16).requires_grad_());
  EXPECT_EQ(found.output.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(found.loss.scalar_type(), torch::kFloat);
  EXPECT_EQ(quantiser.codes.scalar_type(), torch::kFloat);
  try {
    quantiser.forward(torch::zeros({2, 5}));
    ADD_FAILURE();
  } catch (const c10::Error& error) {
    EXPECT_STREQ(error.what_without_backtrace(), "vq: x must be [T, 4] of floating type, got [2, 5] Float");
  }
}

}  // namespace
}  // namespace loci
