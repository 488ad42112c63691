#include "loci/ops/reels/reels.h"

#include <gmock/gmock.h>

#include "loci/base/random.h"
#include "loci/ops/reels/reels_cpu.h"
#include "loci/ops/reels/reels_definition.h"
#include "tests/op_harness.h"

// Legend: K reels.

namespace loci::reels_test {
namespace {

using harness::same_bits;
using harness::strided;
using ::testing::HasSubstr;
using torch::Tensor;

const ReelSource kSource = {7, stream_of("layer"), 0.25};
const auto kSeed = static_cast<int64_t>(kSource.seed);
const auto kStream = static_cast<int64_t>(kSource.stream);
const std::vector<int64_t> kReels = {1, 2, 3, 4, 5, 8, 9, 33};
const std::vector<std::vector<int64_t>> kSizes = {{0}, {1}, {3, 5}, {63}, {64}, {65}, {2, 3, 7, 5}, {520}};

struct Case {
  Tensor scores, grad, velocity;
};

Case case_of(int64_t K, std::vector<int64_t> sizes, at::ScalarType type = torch::kFloat) {
  const Tensor grad = torch::randn(sizes, type);
  sizes.insert(sizes.begin(), K);
  return {(torch::randn(sizes, type) * 4).round() / 4, grad, torch::randn(sizes, type)};
}

template <class Run>
void for_cases(const Run& run) {
  torch::manual_seed(0);
  for (const int64_t K : kReels) {
    for (const auto& sizes : kSizes) {
      SCOPED_TRACE(::testing::Message() << "K " << K << " sizes " << ::testing::PrintToString(sizes));
      run(K, case_of(K, sizes));
    }
  }
}

TEST(Reels, WeightsAndGradientsHaveTheBitsOfTheDefinitionAtEveryLevel) {
  for_cases([](int64_t K, const Case& in) {
    const Tensor values = reel_values_definition(in.grad, K, kSeed, kStream, kSource.bound);
    for (const int64_t draw : {-1, 0, 5}) {
      const auto [weight, choice] = reel_weights_definition(in.scores, kSeed, kStream, kSource.bound, draw, false);
      for (const CpuLevel level : cpu_levels()) {
        SCOPED_TRACE(name_of(level));
        const auto [got, chosen] =
            reel_weights_cpu(strided(in.scores), kSeed, kStream, kSource.bound, draw, false, level);
        ASSERT_TRUE(torch::equal(chosen, choice)) << draw;
        ASSERT_TRUE(same_bits(got, weight)) << draw;
        ASSERT_TRUE(same_bits(reel_values_cpu(in.grad, K, kSeed, kStream, kSource.bound, level), values));
        for (const bool chosen_only : {false, true}) {
          ASSERT_TRUE(same_bits(
              reel_score_gradient_cpu(strided(in.grad), strided(choice), K, kSeed, kStream, kSource.bound, chosen_only,
                                      level),
              reel_score_gradient_definition(in.grad, choice, K, kSeed, kStream, kSource.bound, chosen_only)));
        }
      }
    }
  });
}

TEST(Reels, StepsHaveTheBitsOfTheDefinitionAtEveryLevel) {
  for_cases([](int64_t /*K*/, const Case& in) {
    for (const int mode : {0, 1, 2, 3, 4, 5, 6, 7}) {
      const bool moving = (mode & 1) != 0, chosen_only = (mode & 2) != 0, choose = (mode & 4) != 0;
      const double momentum = moving ? 0.9 : 0;
      const auto [weight, choice] = reel_weights(in.scores, kSource);
      const auto run = [&](const auto& step) {
        std::vector<Tensor> now = {in.scores.clone(), in.velocity.clone(), weight.clone(), choice.clone()};
        const auto velocity = moving ? std::optional(now[1]) : std::nullopt;
        step(now[0], velocity, now[2], now[3]);
        return now;
      };
      const auto expected = run([&](const Tensor& s, const auto& v, const Tensor& w, const Tensor& c) {
        reel_step_definition(s, v, w, c, in.grad, kSeed, kStream, kSource.bound, 40, momentum, 1e-3, 3, mode > 5,
                             chosen_only, choose);
      });
      if (choose) {
        EXPECT_TRUE(same_bits(expected[2], std::get<0>(reel_weights(expected[0], kSource))));
      } else {
        EXPECT_TRUE(same_bits(expected[2], weight));
      }
      for (const CpuLevel level : cpu_levels()) {
        SCOPED_TRACE(name_of(level));
        const auto got = run([&](const Tensor& s, const auto& v, const Tensor& w, const Tensor& c) {
          reel_step_cpu(s, v, w, c, strided(in.grad), kSeed, kStream, kSource.bound, 40, momentum, 1e-3, 3, mode > 5,
                        chosen_only, choose, level);
        });
        for (size_t i = 0; i < got.size(); ++i) ASSERT_TRUE(same_bits(got[i], expected[i])) << mode << " " << i;
      }
    }
  });
}

// What the framework's SGD makes of the gradient [K, ..], within the roundings of its kernel.
TEST(Reels, AStepIsThatOfTheFrameworkFromTheGradientOfAllScores) {
  torch::manual_seed(1);
  for (const bool nesterov : {false, true}) {
    const Case in = case_of(5, {7, 9}, torch::kDouble);
    Tensor scores = in.scores.clone().requires_grad_();
    torch::optim::SGD sgd(std::vector<Tensor>{scores},
                          torch::optim::SGDOptions(0.3).momentum(0.9).weight_decay(0.01).nesterov(nesterov));
    const Tensor own = in.scores.clone(), velocity = torch::zeros_like(own);
    auto [weight, choice] = reel_weights(own, kSource);
    for (int step = 0; step < 3; ++step) {
      sgd.zero_grad();
      std::get<0>(reel_weights(scores, kSource)).backward(in.grad);
      sgd.step();
      reel_step(own, velocity, weight, choice, in.grad * 4, kSource,
                {.rate = 0.3, .momentum = 0.9, .decay = 0.01, .divisor = 4, .nesterov = nesterov});
      EXPECT_TRUE(torch::allclose(own, scores.detach(), 1e-12, 1e-12)) << step;
    }
  }
}

TEST(Reels, ValuesDependOnTheirPlaceAlone) {
  const Tensor all = reel_values(torch::empty({10, 20}), 9, kSource);
  EXPECT_TRUE(torch::equal(reel_values(torch::empty({4, 20}), 3, kSource), all.slice(0, 0, 3).slice(1, 0, 4)));
  const auto differs = [&](const ReelSource& source) {
    return reel_values(torch::empty({10, 20}), 9, source).ne(all).to(torch::kDouble).mean().item<double>() > 0.99;
  };
  EXPECT_TRUE(differs({8, kSource.stream, 0.25}));
  EXPECT_TRUE(differs({7, stream_of("other"), 0.25}));
  EXPECT_TRUE(torch::equal(reel_values(torch::empty({10, 20}), 9, {7, kSource.stream, 0.5}), 2 * all));
}

TEST(Reels, ValuesAreUniformAndIndependent) {
  const Tensor values = reel_values(torch::empty({40000}), 5, kSource).to(torch::kDouble) / 0.25;  // [5, N]
  EXPECT_LT(values.abs().max().item<double>(), 1);
  EXPECT_GT(values.abs().min().item<double>(), 0);
  EXPECT_NEAR(values.mean().item<double>(), 0, 0.006);
  EXPECT_NEAR(values.square().mean().item<double>(), 1.0 / 3, 0.004);
  const Tensor products = values.matmul(values.t()) / 40000;
  EXPECT_LT((products - torch::eye(5, torch::kDouble) / 3).abs().max().item<double>(), 0.01);
}

TEST(Reels, DrawsHaveTheProbabilitiesOfASoftmax) {
  const Tensor scores = torch::tensor({0.5F, -1.0F, 2.0F}).unsqueeze(1).expand({3, 40000});
  Tensor before;
  for (const int64_t draw : {0, 1}) {
    const Tensor choice = std::get<1>(reel_weights(scores, kSource, draw));
    for (int64_t k = 0; k < 3; ++k) {
      const double share = choice.eq(k).to(torch::kDouble).mean().item<double>();
      EXPECT_NEAR(share, scores.select(1, 0).softmax(0)[k].item<double>(), 0.01) << k;
    }
    EXPECT_FALSE(before.defined() && torch::equal(choice, before));
    before = choice;
  }
}

TEST(Reels, EveryReelOfAWeightGetsItsGradient) {
  torch::manual_seed(2);
  for (const auto type : {torch::kFloat, torch::kDouble}) {
    const Case in = case_of(6, {3, 4}, type);
    const Tensor scores = in.scores.clone().requires_grad_();
    const Tensor values = reel_values(in.grad, 6, kSource).to(type);
    for (const bool chosen_only : {false, true}) {
      const auto [weight, choice] = reel_weights(scores, kSource, -1, chosen_only);
      EXPECT_FALSE(choice.requires_grad());
      EXPECT_TRUE(torch::equal(choice.to(torch::kLong), in.scores.argmax(0)));
      EXPECT_TRUE(torch::equal(weight, values.gather(0, choice.to(torch::kLong).unsqueeze(0))[0]));
      const Tensor got = torch::autograd::grad({weight}, {scores}, {in.grad})[0];
      const Tensor mask = torch::arange(6).view({6, 1, 1}).eq(choice.unsqueeze(0));
      EXPECT_TRUE(torch::equal(got, chosen_only ? torch::where(mask, in.grad * values, 0) : in.grad * values));
    }
  }
}

TEST(Reels, HaveTheSameBitsForAnyThreadCount) {
  torch::manual_seed(3);
  const Case in = case_of(8, {90, 130});
  harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> {
    const auto [weight, choice] = reel_weights(in.scores, kSource);
    const auto [drawn, which] = reel_weights(in.scores, kSource, 3);
    const std::vector<Tensor> state = {in.scores.clone(), in.velocity.clone(), weight.clone(), choice.clone()};
    reel_step(state[0], state[1], state[2], state[3], in.grad, kSource, {.rate = 1, .momentum = 0.9});
    return {weight,   choice,   drawn,    which,    reel_values(in.grad, 8, kSource),
            state[0], state[1], state[2], state[3], reel_score_gradient(in.grad, choice, 8, kSource)};
  });
}

TEST(Reels, AnswerOnEveryDevice) {
  torch::manual_seed(4);
  const Case in = case_of(5, {3, 33});
  const auto run = [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
    const auto [weight, choice] = reel_weights(x[0], kSource);
    const auto [drawn, which] = reel_weights(x[0], kSource, 2);
    return {weight,
            choice,
            drawn,
            which,
            reel_values(x[1], 5, kSource),
            reel_score_gradient(x[1], choice, 5, kSource),
            reel_score_gradient(x[1], choice, 5, kSource, true)};
  };
  harness::expect_the_same_on_every_device(run, {in.scores, in.grad}, 0);
}

TEST(Reels, AStepMovesTheVersionsOfWhatItWrites) {
  const Case in = case_of(3, {4});
  auto [weight, choice] = reel_weights(in.scores, kSource);
  const auto before = in.scores._version();
  reel_step(in.scores, in.velocity, weight, choice, in.grad, kSource, {.rate = 1, .momentum = 0.5});
  EXPECT_GT(in.scores._version(), before);
}

TEST(Reels, RefuseBadInputInThreeParts) {
  const Case in = case_of(3, {4, 5});
  const auto [weight, choice] = reel_weights(in.scores, kSource);
  const auto weights = [](const Tensor& scores) { return harness::message_of([&] { reel_weights(scores, kSource); }); };
  EXPECT_THAT(weights(in.scores.to(torch::kHalf)),
              HasSubstr("reel_weights: scores must be [K, ..] of float32 or float64, got [3, 4, 5] of Half"));
  EXPECT_THAT(weights(torch::zeros({0, 5})), HasSubstr("reel_weights: reels must be 1 to 256, got 0"));
  EXPECT_THAT(weights(torch::zeros({257, 5})), HasSubstr("reel_weights: reels must be 1 to 256, got 257"));
  EXPECT_THAT(harness::message_of([&] { reel_values(in.grad, 0, kSource); }),
              HasSubstr("reel_values: reels must be 1 to 256, got 0"));
  EXPECT_THAT(harness::message_of([&, c = choice] { reel_score_gradient(in.grad, c.to(torch::kLong), 3, kSource); }),
              HasSubstr("reel_score_gradient: choice must be [4, 5] of Byte on cpu like grad, got [4, 5] of Long"));
  const auto step = [&, w = weight, c = choice](const Tensor& velocity, const Tensor& grad) {
    return harness::message_of(
        [&] { reel_step(in.scores, velocity, w, c, grad, kSource, {.rate = 1, .momentum = 0.9}); });
  };
  EXPECT_THAT(step(in.velocity[0], in.grad), HasSubstr("reel_step: velocity must be [3, 4, 5] of Float on cpu, got"));
  EXPECT_THAT(step(in.velocity, in.grad.to(torch::kDouble)), HasSubstr("reel_step: grad must be [4, 5] of Float"));
  EXPECT_THAT(step(Tensor(), in.grad), HasSubstr("reel_step: velocity must be a tensor for a momentum above 0"));
  EXPECT_THAT(step(strided(in.velocity), in.grad), HasSubstr("must be contiguous, got others"));
}

}  // namespace
}  // namespace loci::reels_test
