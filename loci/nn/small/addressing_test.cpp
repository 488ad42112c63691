#include "loci/nn/small/addressing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/op_harness.h"

namespace loci {
namespace {

using torch::Tensor;

Tensor doubles(std::vector<double> values) {
  return torch::tensor(values, torch::kDouble);
}

// One pair at a time, from the formulas.
double score_of(const Tensor& q, const Tensor& k, AddressScore kind) {
  double product = 0, of_q = 0, of_k = 0;
  for (int64_t i = 0; i < q.size(0); ++i) {
    const double a = q[i].item<double>(), b = k[i].item<double>();
    product += a * b;
    of_q += a * a;
    of_k += b * b;
  }
  if (kind == AddressScore::scaled_dot) return product / std::sqrt(static_cast<double>(q.size(0)));
  if (kind == AddressScore::cosine) return product / std::sqrt(of_q * of_k);
  return product;
}

TEST(Addressing, ScoresAreThoseOfTheFormulas) {
  torch::manual_seed(1);
  const Tensor query = torch::randn({2, 3, 5}, torch::kDouble), key = torch::randn({2, 4, 5}, torch::kDouble);
  for (const auto kind : {AddressScore::dot, AddressScore::scaled_dot, AddressScore::cosine}) {
    const Tensor score = address_scores(query, key, kind);
    ASSERT_EQ(score.sizes(), (std::vector<int64_t>{2, 3, 4}));
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t i = 0; i < 3; ++i) {
        for (int64_t n = 0; n < 4; ++n) {
          EXPECT_NEAR(score[b][i][n].item<double>(), score_of(query[b][i], key[b][n], kind), 1e-12);
        }
      }
    }
    EXPECT_TRUE(torch::allclose(address_scores(query, key[1], kind)[0], address_scores(query[0], key[1], kind)));
  }
}

TEST(Addressing, ACosineOfNothingIsZeroAndHasAGradient) {
  const Tensor query = torch::zeros({1, 3}).requires_grad_(), key = torch::ones({2, 3}).requires_grad_();
  const Tensor score = address_scores(query, key, AddressScore::cosine);
  EXPECT_TRUE(torch::equal(score, torch::zeros({1, 2})));
  score.sum().backward();
  EXPECT_TRUE(query.grad().isfinite().all().item<bool>() && key.grad().isfinite().all().item<bool>());
}

TEST(Addressing, AdditiveScoresAreThoseOfTheFormula) {
  torch::manual_seed(2);
  AdditiveScore additive("additive", 3, 5, 4, 7);
  const Tensor query = torch::randn({2, 3}), key = torch::randn({6, 5});
  const Tensor score = additive.forward(query, key);
  ASSERT_EQ(score.sizes(), (std::vector<int64_t>{2, 6}));
  for (int64_t i = 0; i < 2; ++i) {
    for (int64_t n = 0; n < 6; ++n) {
      const Tensor inner = (additive.query_weight.mv(query[i]) + additive.key_weight.mv(key[n])).tanh();
      EXPECT_NEAR(score[i][n].item<float>(), additive.score_weight.dot(inner).item<float>(), 1e-6);
    }
  }
  EXPECT_EQ(additive.parameters().size(), 3);
  EXPECT_TRUE(torch::equal(AdditiveScore("additive", 3, 5, 4, 7).key_weight, additive.key_weight));
}

// Softmax in a loop over the items of `read`.
Tensor loop_softmax(const Tensor& score, const std::vector<int64_t>& read, double temperature) {
  double sum = 0;
  for (const int64_t n : read) sum += std::exp(score[n].item<double>() / temperature);
  Tensor weights = torch::zeros_like(score);
  for (const int64_t n : read) weights[n] = std::exp(score[n].item<double>() / temperature) / sum;
  return weights;
}

TEST(Addressing, EveryModeReadsWhatItSays) {
  const Tensor score = doubles({0.3, 0.9, -0.2, 0.5});
  const auto weights = [&](ReadMode mode, int64_t top_k) {
    return read_weights(score, {}, {.mode = mode, .top_k = top_k, .temperature = 0.5});
  };
  EXPECT_TRUE(torch::allclose(weights(ReadMode::soft, 1), loop_softmax(score, {0, 1, 2, 3}, 0.5)));
  EXPECT_TRUE(torch::allclose(weights(ReadMode::top_k, 2), loop_softmax(score, {1, 3}, 0.5)));
  for (const auto mode : {ReadMode::hard, ReadMode::straight_through}) {
    EXPECT_TRUE(torch::equal(weights(mode, 1), doubles({0, 1, 0, 0})));
    EXPECT_TRUE(torch::equal(weights(mode, 2), doubles({0, 0.5, 0, 0.5})));
    EXPECT_TRUE(torch::equal(weights(mode, 9), doubles({0.25, 0.25, 0.25, 0.25})));
  }
}

TEST(Addressing, OfEqualScoresTheFirstIsRead) {
  const Tensor score = torch::zeros({300});
  const Tensor weights = read_weights(score, {}, {.mode = ReadMode::hard, .top_k = 3});
  EXPECT_TRUE(torch::equal(weights.nonzero().squeeze(1), torch::arange(3)));
}

TEST(Addressing, HardHasNoGradientAndStraightThroughThatOfSoft) {
  torch::manual_seed(3);
  const Tensor score = torch::randn({3, 5}, torch::kDouble).requires_grad_();
  const Tensor grad = torch::randn({3, 5}, torch::kDouble);
  const Tensor mask = torch::rand({3, 5}) < 0.7;
  const auto gradient = [&](ReadMode mode) {
    const Tensor weights = read_weights(score, mask, {.mode = mode, .temperature = 0.1});
    return torch::autograd::grad({weights}, {score}, {grad})[0];
  };
  EXPECT_FALSE(read_weights(score, mask, {.mode = ReadMode::hard}).requires_grad());
  EXPECT_TRUE(torch::equal(gradient(ReadMode::straight_through), gradient(ReadMode::soft)));
  EXPECT_GT(gradient(ReadMode::soft).abs().max().item<double>(), 0);
}

TEST(Addressing, AbsentItemsNeverMatterAndWithoutAnyTheWeightsAreZero) {
  const double odd = std::numeric_limits<double>::quiet_NaN(), most = std::numeric_limits<double>::infinity();
  const Tensor mask = torch::tensor({{false, true, true, false}, {false, false, false, false}});
  for (const auto mode : {ReadMode::soft, ReadMode::top_k, ReadMode::hard, ReadMode::straight_through}) {
    const auto weights_and_gradient = [&](double a, double b) {
      const Tensor score = doubles({a, 0.2, 0.7, b}).expand({2, 4}).clone().requires_grad_();
      const Tensor weights = read_weights(score, mask, {.mode = mode, .top_k = 3});
      if (weights.requires_grad()) (weights * torch::arange(4)).sum().backward();
      return std::pair{weights.detach(), score.grad().defined() ? score.grad() : torch::zeros({2, 4}, torch::kDouble)};
    };
    const auto [weights, gradient] = weights_and_gradient(0, 0);
    const auto [other, other_gradient] = weights_and_gradient(odd, most);
    EXPECT_TRUE(torch::equal(weights, other) && torch::equal(gradient, other_gradient));
    EXPECT_TRUE(torch::equal(weights[1], torch::zeros({4}, torch::kDouble)));
    EXPECT_NEAR(weights[0].sum().item<double>(), 1, 1e-12);
    EXPECT_TRUE(torch::equal(weights[0].ne(0), mask[0]));
  }
}

TEST(Addressing, NoItemsAtAllIsAnEmptyRead) {
  for (const auto mode : {ReadMode::soft, ReadMode::top_k, ReadMode::hard, ReadMode::straight_through}) {
    const Tensor weights = read_weights(torch::zeros({2, 0}), torch::zeros({2, 0}, torch::kBool), {.mode = mode});
    EXPECT_TRUE(torch::equal(weights.matmul(torch::zeros({0, 3})), torch::zeros({2, 3})));
  }
}

TEST(Addressing, SoftWeightsAgreeWithFiniteDifferences) {
  torch::manual_seed(4);
  const Tensor mask = torch::tensor({true, true, false, true, true}), values = torch::randn({5}, torch::kDouble);
  for (const auto mode : {ReadMode::soft, ReadMode::top_k}) {
    const Tensor score = torch::randn({5}, torch::kDouble).requires_grad_();
    const auto read = [&](const Tensor& s) {
      return read_weights(s, mask, {.mode = mode, .top_k = 3, .temperature = 0.7}).dot(values);
    };
    const Tensor gradient = torch::autograd::grad({read(score)}, {score})[0];
    for (int64_t n = 0; n < 5; ++n) {
      const Tensor step = torch::zeros({5}, torch::kDouble).index_put_({n}, 1e-6);
      const double slope = (read(score + step) - read(score - step)).item<double>() / 2e-6;
      EXPECT_NEAR(gradient[n].item<double>(), slope, 1e-8);
    }
  }
}

TEST(Addressing, RefusesBadInputInThreeParts) {
  const Tensor score = torch::zeros({2, 3});
  const auto message = [&](const Tensor& mask, const ReadOptions& options) {
    return harness::message_of([&] { read_weights(score, mask, options); });
  };
  EXPECT_THAT(message(score, {}), testing::HasSubstr("read_weights: mask must be bool, got Float"));
  EXPECT_THAT(message({}, {.top_k = 0}), testing::HasSubstr("top_k must be at least 1 and temperature a positive"));
  EXPECT_THAT(message({}, {.temperature = 0}), testing::HasSubstr("got 1 and 0"));
  EXPECT_THAT(harness::message_of([&] { address_scores(score, torch::zeros({2, 4}), AddressScore::dot); }),
              testing::HasSubstr("address_scores: query and key must be [.., Q, 3] and [.., N, 3] of floating types, "
                                 "got [2, 3] of Float and [2, 4] of Float"));
  AdditiveScore additive("additive", 3, 5, 4, 7);
  EXPECT_THAT(harness::message_of([&] { additive.forward(score, score); }),
              testing::HasSubstr("AdditiveScore: query and key must be [.., Q, 3] and [.., N, 5]"));
  EXPECT_THAT(harness::message_of([] { AdditiveScore("a", 3, 5, 0, 7); }),
              testing::HasSubstr("a: query_width, key_width and inner must be at least 1, got 3, 5 and 0"));
}

}  // namespace
}  // namespace loci
