// Legend: T tokens, C features.
#include "loci/nn/batch_norm.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include <bit>
#include <limits>

#include "loci/base/cpu_level.h"
#include "loci/ops/batch_norm/batch_norm_kernel.h"
#include "tests/op_harness.h"

namespace loci {
namespace {

using at::Tensor;
using ::testing::HasSubstr;

struct Case {
  Tensor x, gain, bias, mean, variance;
};

Case make_case(int64_t tokens, int64_t features, at::ScalarType type = at::kDouble) {
  torch::manual_seed(1);
  const auto options = at::TensorOptions(type);
  return {torch::randn({tokens, features}, options) * 2 + 3, torch::randn({features}, options),
          torch::randn({features}, options), torch::randn({features}, options), torch::rand({features}, options) + 0.5};
}

TEST(BatchNorm, EqualsTheFrameworksWithItsGradients) {
  for (const auto& [tokens, features] : std::vector<std::pair<int64_t, int64_t>>{{2, 1}, {7, 3}, {33, 65}, {5, 200}}) {
    Case ours = make_case(tokens, features), theirs = make_case(tokens, features);
    const Tensor direction = torch::randn({tokens, features}, at::kDouble);
    for (Case* c : {&ours, &theirs}) {
      for (Tensor* t : {&c->x, &c->gain, &c->bias}) t->requires_grad_();
    }
    const Tensor y = batch_norm(ours.x, ours.gain, ours.bias, ours.mean, ours.variance, true);
    const Tensor expected =
        at::batch_norm(theirs.x, theirs.gain, theirs.bias, theirs.mean, theirs.variance, true, 0.1, 1e-5, false);
    (y * direction).sum().backward();
    (expected * direction).sum().backward();
    EXPECT_TRUE(torch::allclose(y, expected, 1e-10, 1e-12));
    EXPECT_TRUE(torch::allclose(ours.mean, theirs.mean, 1e-12, 1e-14));
    EXPECT_TRUE(torch::allclose(ours.variance, theirs.variance, 1e-12, 1e-14));
    EXPECT_TRUE(torch::allclose(ours.x.grad(), theirs.x.grad(), 1e-8, 1e-10));
    EXPECT_TRUE(torch::allclose(ours.gain.grad(), theirs.gain.grad(), 1e-10, 1e-12));
    EXPECT_TRUE(torch::allclose(ours.bias.grad(), theirs.bias.grad(), 1e-10, 1e-12));
  }
}

TEST(BatchNorm, ErrorInFloatIsAtMostThatOfTheFramework) {
  const Case exact = make_case(1000, 40);
  const auto run = [](const Case& c, auto norm, at::ScalarType type) {
    return norm(c.x.to(type), c.gain.to(type), c.bias.to(type), c.mean.to(type).clone(), c.variance.to(type).clone());
  };
  const auto ours = [](auto x, auto gain, auto bias, auto mean, auto variance) {
    return batch_norm(x, gain, bias, mean, variance, true);
  };
  const auto theirs = [](auto x, auto gain, auto bias, auto mean, auto variance) {
    return at::batch_norm(x, gain, bias, mean, variance, true, 0.1, 1e-5, false);
  };
  Case rounded = exact;
  rounded.x = exact.x.to(at::kFloat).to(at::kDouble);
  const Tensor truth = run(rounded, theirs, at::kDouble);
  const auto error = [&](const Tensor& y) { return (y.to(at::kDouble) - truth).abs().max().item<double>(); };
  EXPECT_LE(error(run(rounded, ours, at::kFloat)), 2 * error(run(rounded, theirs, at::kFloat)));
}

// A mean of 100,000 deviations, of which float keeps the deviation's hundredth part.
TEST(BatchNorm, AFarMeanCostsNoPrecision) {
  Case c = make_case(700, 40, at::kFloat);
  c.x = (torch::randn({700, 40}) + 1e5).requires_grad_();
  const Tensor direction = torch::randn({700, 40});
  const auto run = [&](at::ScalarType type, auto norm) {
    const Tensor x = c.x.detach().to(type).requires_grad_();
    const Tensor y = norm(x, c.gain.to(type), c.bias.to(type), c.mean.to(type).clone(), c.variance.to(type).clone());
    (y * direction.to(type)).sum().backward();
    return std::vector<Tensor>{y.detach().to(at::kDouble), x.grad().to(at::kDouble)};
  };
  const auto got = run(at::kFloat, [](auto x, auto gain, auto bias, auto mean, auto variance) {
    return batch_norm(x, gain, bias, mean, variance, true);
  });
  const auto truth = run(at::kDouble, [](auto x, auto gain, auto bias, auto mean, auto variance) {
    return at::batch_norm(x, gain, bias, mean, variance, true, 0.1, 1e-5, false);
  });
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_LT((got[i] - truth[i]).abs().max().item<double>(), 1e-5) << i;
  }
}

TEST(BatchNorm, FewerThanTwoTokensUseRunningStatisticsAndLeaveThem) {
  for (const int64_t tokens : {0, 1}) {
    const Case c = make_case(tokens, 5);
    const Tensor mean = c.mean.clone(), variance = c.variance.clone();
    const Tensor y = batch_norm(c.x, c.gain, c.bias, c.mean, c.variance, true);
    EXPECT_TRUE(torch::equal(y, batch_norm(c.x, c.gain, c.bias, c.mean, c.variance, false)));
    EXPECT_TRUE(torch::allclose(y, (c.x - mean) / (variance + 1e-5).sqrt() * c.gain + c.bias, 1e-12, 1e-12));
    EXPECT_TRUE(torch::equal(c.mean, mean));
    EXPECT_TRUE(torch::equal(c.variance, variance));
  }
}

// Evaluation runs one pass of its own; with gradients it is composed of operators.
TEST(BatchNorm, KnownStatisticsGiveTheSameWithAndWithoutGradients) {
  for (const auto& [tokens, features] : std::vector<std::pair<int64_t, int64_t>>{{0, 3}, {1, 1}, {1, 37}, {200, 512}}) {
    for (const auto type : {at::kFloat, at::kDouble}) {
      Case c = make_case(tokens, features, type);
      const Tensor composed =
          batch_norm(c.x.clone().requires_grad_(), c.gain, c.bias, c.mean, c.variance, /*training=*/false);
      const at::NoGradGuard none;
      const Tensor y = batch_norm(c.x, c.gain, c.bias, c.mean, c.variance, /*training=*/false);
      const double tolerance = type == at::kFloat ? 1e-5 : 1e-13;
      EXPECT_TRUE(torch::allclose(y, composed, tolerance, tolerance)) << tokens << " x " << features << " " << type;
      EXPECT_TRUE(torch::equal(y, batch_norm(c.x.t().contiguous().t(), c.gain, c.bias, c.mean, c.variance, false)));
    }
  }
}

TEST(BatchNorm, SameBitsForAnyThreadCount) {
  const int before = at::get_num_threads();
  std::vector<Tensor> first;
  for (const int threads : {1, 2, 3, 8}) {
    at::set_num_threads(threads);
    Case c = make_case(3000, 130, at::kFloat);
    c.x.requires_grad_();
    c.gain.requires_grad_();
    const Tensor y = batch_norm(c.x, c.gain, c.bias, c.mean, c.variance, true);
    y.pow(2).sum().backward();
    const std::vector<Tensor> all = {y, c.mean, c.variance, c.x.grad(), c.gain.grad()};
    if (first.empty()) first = all;
    for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(torch::equal(all[i], first[i])) << threads << " " << i;
  }
  at::set_num_threads(before);
}

// As if x had been widened, and its gradient rounded to bfloat16.
TEST(BatchNorm, Bfloat16InputGivesTheBitsOfTheWidenedOne) {
  for (const auto& [tokens, features] : std::vector<std::pair<int64_t, int64_t>>{{2, 1}, {33, 70}, {1100, 130}}) {
    for (const bool training : {true, false}) {
      for (const bool gradient : {true, false}) {
        const Case c = make_case(tokens, features, at::kFloat);
        const Tensor direction = torch::randn({tokens, features});
        const auto run = [&](bool wide) {
          const Tensor x = c.x.to(at::kBFloat16).requires_grad_(gradient);
          const Tensor gain = c.gain.clone().requires_grad_(gradient);
          const Tensor mean = c.mean.clone(), variance = c.variance.clone();
          const Tensor y =
              batch_norm(wide ? x.to(at::kFloat) : x, gain, c.bias, mean, variance, training, /*momentum=*/0.3);
          if (gradient) (y * direction).sum().backward();
          return std::vector<Tensor>{y, x.grad(), gain.grad(), mean, variance};
        };
        const std::vector<Tensor> got = run(false), expected = run(true);
        for (size_t i = 0; i < got.size(); ++i) {
          if (!expected[i].defined()) continue;
          EXPECT_EQ(got[i].scalar_type(), expected[i].scalar_type());
          EXPECT_TRUE(torch::equal(got[i], expected[i])) << tokens << " x " << features << ": " << i;
        }
      }
    }
  }
}

// Half-way cases, infinities, NaN and numbers below the smallest normal one, as the framework rounds them.
TEST(BatchNorm, Bfloat16GradientsAreRoundedAsTheFrameworkRounds) {
  std::vector<float> dy;
  for (const uint32_t high : {0x3f80U, 0x3f81U, 0xbf80U, 0xbf81U, 0x7f7fU, 0x0000U, 0x8001U, 0x7f80U, 0xff80U}) {
    for (const uint32_t low : {0x0000U, 0x7fffU, 0x8000U, 0x8001U}) {
      if ((high & 0x7f80U) != 0x7f80U || low == 0) dy.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  dy.push_back(std::numeric_limits<float>::quiet_NaN());
  const auto size = static_cast<int64_t>(dy.size());
  const std::vector<uint16_t> x(dy.size(), 0);
  const std::vector<float> one(dy.size(), 1), zero(dy.size(), 0);
  const Tensor expected = torch::tensor(dy).to(at::kBFloat16);
  const auto gradient = [](CpuLevel level) {
    return at_level(level, base::batch_norm_bfloat16, avx2::batch_norm_bfloat16, avx512::batch_norm_bfloat16).gradient;
  };
  for (const CpuLevel level : cpu_levels()) {
    Tensor got = torch::empty({size}, at::kBFloat16);
    gradient(level)(x.data(), dy.data(), zero.data(), zero.data(), one.data(), zero.data(), zero.data(), 1, size,
                    static_cast<uint16_t*>(got.mutable_data_ptr()));
    EXPECT_TRUE(torch::equal(got.isnan(), expected.isnan())) << name_of(level);
    EXPECT_TRUE(torch::equal(got.nan_to_num(7), expected.nan_to_num(7))) << name_of(level);
  }
}

TEST(BatchNorm, RefusesBadInputInThreeParts) {
  const Case c = make_case(4, 3, at::kFloat);
  const auto message = [&](const Tensor& x, const Tensor& gain) {
    return harness::message_of([&] { batch_norm(x, gain, c.bias, c.mean, c.variance, true); });
  };
  EXPECT_THAT(message(c.x[0], c.gain), HasSubstr("batch_norm: x must be [T, C], got [3]"));
  EXPECT_THAT(message(c.x.to(at::kHalf), c.gain), HasSubstr("x must be float32, float64 or bfloat16, got Half"));
  EXPECT_THAT(message(c.x.to(at::kBFloat16), c.gain.to(at::kBFloat16)),
              HasSubstr("gain, bias and running statistics must be [3] of Float, got [3] of BFloat16"));
  EXPECT_THAT(message(c.x, c.gain.narrow(0, 0, 2)), HasSubstr("must be [3] of Float, got [2] of Float"));
}

TEST(BatchNorm, SecondDerivativeIsRefused) {
  const Case c = make_case(4, 2);
  const Tensor x = c.x.clone().requires_grad_();
  const Tensor y = batch_norm(x, c.gain, c.bias, c.mean, c.variance, true);
  EXPECT_THROW(torch::autograd::grad({y.pow(2).sum()}, {x}, {}, true, /*create_graph=*/true), c10::NotImplementedError);
}

}  // namespace
}  // namespace loci
