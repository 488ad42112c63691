#include "loci/ops/batch_norm/batch_norm.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include <bit>
#include <limits>

#include "loci/ops/batch_norm/batch_norm_cpu.h"
#include "loci/ops/batch_norm/batch_norm_definition.h"
#include "loci/ops/batch_norm/batch_norm_kernel.h"
#include "tests/op_harness.h"

// Legend: T tokens, C features.

namespace loci::batch_norm_test {
namespace {

using at::Tensor;
using harness::same_bits;
using harness::strided;
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

// Results, statistics and running statistics; then the gradients of x, gain and bias.
std::vector<Tensor> at_level_of(const Case& c, bool training, CpuLevel level, bool awkward = false) {
  const auto form = [&](const Tensor& x) { return awkward ? strided(x) : x; };
  const Tensor mean = form(c.mean.clone()), variance = form(c.variance.clone());
  const auto [y, statistics] =
      batch_norm_cpu(form(c.x), form(c.gain), form(c.bias), mean, variance, training, 0.2, 1e-5, level);
  const auto [dx, dgain, dbias] = batch_norm_backward_cpu(form(torch::cos(y)), form(c.x), form(c.gain),
                                                          form(statistics), training && c.x.size(0) >= 2, level);
  return {y, statistics, mean, variance, dx, dgain, dbias};
}

std::vector<Tensor> defined(const Case& c, bool training) {
  const Tensor mean = c.mean.clone(), variance = c.variance.clone();
  const auto [y, statistics] = batch_norm_definition(c.x, c.gain, c.bias, mean, variance, training, 0.2, 1e-5);
  const auto [dx, dgain, dbias] =
      batch_norm_backward_definition(torch::cos(y), c.x, c.gain, statistics, training && c.x.size(0) >= 2);
  return {y, statistics, mean, variance, dx, dgain, dbias};
}

std::vector<std::pair<int64_t, int64_t>> sizes() {
  std::vector<std::pair<int64_t, int64_t>> list = {{700, 65}, {1100, 3}};
  for (const int64_t size : harness::kSizes) {
    list.emplace_back(5, size);
    list.emplace_back(size, 6);
    list.emplace_back(size, 0);
  }
  return list;
}

TEST(BatchNorm, HasTheSameBitsAtEveryLevelAndForAnyStrides) {
  for (const auto& [tokens, features] : sizes()) {
    for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
      Case c = make_case(tokens, features, type == at::kDouble ? at::kDouble : at::kFloat);
      c.x = c.x.to(type);
      for (const bool training : {true, false}) {
        const auto base = at_level_of(c, training, CpuLevel::base);
        for (const CpuLevel level : cpu_levels()) {
          const auto got = at_level_of(c, training, level), awkward = at_level_of(c, training, level, true);
          for (size_t i = 0; i < base.size(); ++i) {
            EXPECT_TRUE(same_bits(got[i], base[i])) << tokens << " x " << features << " " << name_of(level) << " " << i;
            EXPECT_TRUE(same_bits(awkward[i], base[i])) << tokens << " x " << features << ", strided " << i;
          }
        }
      }
    }
  }
}

TEST(BatchNorm, EqualsItsDefinitionAndKeepsTheErrorRule) {
  for (const auto& [tokens, features] : sizes()) {
    for (const bool training : {true, false}) {
      const Case exact = make_case(tokens, features);
      const auto wide = at_level_of(exact, training, cpu_level()), wide_defined = defined(exact, training);
      for (size_t i = 0; i < wide.size(); ++i) {
        EXPECT_TRUE(torch::allclose(wide[i], wide_defined[i], 1e-9, 1e-10)) << tokens << " x " << features << " " << i;
      }
      if (tokens < 200) continue;  // the rule compares largest errors, which says nothing of few numbers
      Case rounded = exact, narrow = exact;
      for (Tensor Case::* part : {&Case::x, &Case::gain, &Case::bias, &Case::mean, &Case::variance}) {
        narrow.*part = (exact.*part).to(at::kFloat);
        rounded.*part = (narrow.*part).to(at::kDouble);
      }
      const auto got = at_level_of(narrow, training, cpu_level()), slow = defined(narrow, training),
                 truth = defined(rounded, training);
      for (const size_t i : {0, 4, 5, 6}) harness::expect_error_rule(got[i], slow[i], truth[i]);
    }
  }
}

TEST(BatchNorm, GradientEqualsFiniteDifferences) {
  for (const bool training : {true, false}) {
    const Case c = make_case(6, 3);
    const std::vector<Tensor> inputs = {c.x.clone().requires_grad_(), c.gain.clone().requires_grad_(),
                                        c.bias.clone().requires_grad_()};
    harness::expect_finite_differences(
        [&](const std::vector<Tensor>& x) {
          return batch_norm(x[0], x[1], x[2], c.mean.clone(), c.variance.clone(), training);
        },
        inputs);
  }
}

TEST(BatchNorm, AnswersOnEveryDevice) {
  for (const auto& [tokens, features] : sizes()) {
    for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
      const Case c = make_case(tokens, features, type == at::kDouble ? at::kDouble : at::kFloat);
      for (const bool training : {true, false}) {
        const auto run = [&](const std::vector<Tensor>& x) -> std::vector<Tensor> {
          const Tensor mean = x[3].clone(), variance = x[4].clone();
          const Tensor y = batch_norm(x[0], x[1], x[2], mean, variance, training);
          const Tensor statistics = at::stack({mean, variance}).to(at::kDouble);
          const auto [dx, dgain, dbias] =
              batch_norm_backward(y, x[0], x[1], statistics, batch_norm_uses_batch(x[0], training));
          return {y, mean, variance, dx, dgain, dbias};
        };
        harness::expect_the_same_on_every_device(run, {c.x.to(type), c.gain, c.bias, c.mean, c.variance}, 1e-2);
      }
    }
  }
}

// A graph that saved running statistics must not use them after they were written.
TEST(BatchNorm, WritingRunningStatisticsMovesTheirVersions) {
  const Case c = make_case(4, 3);
  for (const bool recorded : {true, false}) {
    const Tensor factor = torch::ones({3}, torch::kDouble).requires_grad_();
    for (const Tensor& saved : {c.mean, c.variance}) {
      const Tensor product = factor * saved;
      batch_norm(recorded ? c.x.clone().requires_grad_() : c.x, c.gain, c.bias, c.mean, c.variance, false);
      const auto before = saved._version();
      batch_norm(recorded ? c.x.clone().requires_grad_() : c.x, c.gain, c.bias, c.mean, c.variance, true);
      EXPECT_GT(saved._version(), before);
      EXPECT_THAT(harness::message_of([&] { product.sum().backward(); }),
                  HasSubstr("modified by an inplace operation"));
    }
  }
}

// A mean of 100,000 deviations, of which float keeps the deviation's hundredth part.
TEST(BatchNorm, AFarMeanCostsNoPrecision) {
  for (const bool training : {true, false}) {
    Case c = make_case(700, 40, at::kFloat);
    c.x = torch::randn({700, 40}) + 1e5;
    c.mean = torch::full({40}, 1e5f) + torch::randn({40});
    const Tensor direction = torch::randn({700, 40});
    const auto run = [&](at::ScalarType type, auto norm) {
      const Tensor x = c.x.to(type).detach().clone().requires_grad_();
      const Tensor y = norm(x, c.gain.to(type), c.bias.to(type), c.mean.to(type).clone(), c.variance.to(type).clone());
      (y * direction.to(type)).sum().backward();
      return std::vector<Tensor>{y.detach().to(at::kDouble), x.grad().to(at::kDouble)};
    };
    const auto got = run(at::kFloat, [&](auto x, auto gain, auto bias, auto mean, auto variance) {
      return batch_norm(x, gain, bias, mean, variance, training);
    });
    const auto truth = run(at::kDouble, [&](auto x, auto gain, auto bias, auto mean, auto variance) {
      return at::batch_norm(x, gain, bias, mean, variance, training, 0.1, 1e-5, false);
    });
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_LT((got[i] - truth[i]).abs().max().item<double>(), 1e-5) << i << " training " << training;
    }
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

TEST(BatchNorm, KnownStatisticsGiveTheSameBitsWithAndWithoutGradients) {
  for (const auto& [tokens, features] : std::vector<std::pair<int64_t, int64_t>>{{0, 3}, {1, 1}, {1, 37}, {200, 512}}) {
    for (const auto type : {at::kFloat, at::kDouble}) {
      Case c = make_case(tokens, features, type);
      const Tensor recorded =
          batch_norm(c.x.clone().requires_grad_(), c.gain, c.bias, c.mean, c.variance, /*training=*/false);
      const at::NoGradGuard none;
      const Tensor y = batch_norm(c.x, c.gain, c.bias, c.mean, c.variance, /*training=*/false);
      EXPECT_TRUE(same_bits(y, recorded)) << tokens << " x " << features << " " << type;
      EXPECT_TRUE(torch::equal(y, batch_norm(c.x.t().contiguous().t(), c.gain, c.bias, c.mean, c.variance, false)));
    }
  }
}

TEST(BatchNorm, HasTheSameBitsForAnyThreadCount) {
  harness::expect_same_bits_for_any_thread_count(
      []() -> std::vector<Tensor> { return at_level_of(make_case(3000, 130, at::kFloat), true, cpu_level()); });
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
    return at_level(level, base::batch_norm_kernel, avx2::batch_norm_kernel, avx512::batch_norm_kernel)
        .bfloat16.gradient;
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

TEST(BatchNorm, RefusesASecondDerivativeByName) {
  const Case c = make_case(4, 2);
  const Tensor x = c.x.clone().requires_grad_();
  const Tensor y = batch_norm(x, c.gain, c.bias, c.mean, c.variance, true);
  const Tensor grad = torch::autograd::grad({y.pow(2).sum()}, {x}, {}, true, /*create_graph=*/true)[0];
  EXPECT_THAT(harness::message_of([&] { grad.sum().backward(); }),
              HasSubstr("batch_norm: a second derivative is not implemented"));
}

}  // namespace
}  // namespace loci::batch_norm_test
