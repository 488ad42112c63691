#include "loci/ops/half_norm/half_norm.h"

#include <gmock/gmock.h>

#include "loci/ops/half_norm/half_norm_cpu.h"
#include "loci/ops/half_norm/half_norm_definition.h"
#include "tests/op_harness.h"

// Legend: T tokens, H heads, w width of a half.

namespace loci::half_norm_test {
namespace {

using harness::same_bits;
using harness::strided;
using torch::Tensor;

struct Case {
  int64_t T, H, w;
};

struct Inputs {
  Tensor x, gain, bias;
};

Tensor defined_result(const Tensor& x, const Tensor& gain, const std::optional<Tensor>& bias, double epsilon) {
  return std::get<0>(half_norm_definition(x, gain, bias, epsilon));
}

Inputs inputs(const Case& c, torch::ScalarType type = torch::kDouble) {
  const auto make = [&](std::vector<int64_t> sizes) { return torch::randn(sizes, torch::kDouble).to(type); };
  return {make({c.T, c.H, 2, c.w}) * 2 + 3, make({c.H, 2, c.w}), make({c.H, 2, c.w})};
}

std::vector<Case> cases() {
  std::vector<Case> list = {{0, 2, 4}, {3, 0, 4}, {1, 1, 1}, {300, 3, 5}, {600, 2, 64}};
  for (const int64_t w : harness::kSizes) list.push_back({3, 2, w});
  list.push_back({4, 2, 100});
  return list;
}

TEST(HalfNorm, EqualsItsDefinitionWithGradients) {
  torch::manual_seed(0);
  for (const Case& c : cases()) {
    for (const bool with_bias : {true, false}) {
      SCOPED_TRACE(::testing::Message() << "T " << c.T << " H " << c.H << " w " << c.w << " bias " << with_bias);
      const Inputs in = inputs(c);
      std::vector<Tensor> given = {in.x.set_requires_grad(true), in.gain.set_requires_grad(true)};
      if (with_bias) given.push_back(in.bias.set_requires_grad(true));
      const auto with = [&](auto norm) {
        return [=](const std::vector<Tensor>& x) {
          return norm(x[0], x[1], x.size() > 2 ? std::optional(x[2]) : std::nullopt, 1e-5);
        };
      };
      const Tensor cotangent = torch::randn(in.x.sizes(), torch::kDouble);
      EXPECT_TRUE(torch::allclose(with(half_norm)(given), with(defined_result)(given), 1e-11, 1e-12));
      const auto got = harness::gradients(with(half_norm), given, cotangent);
      const auto expected = harness::gradients(with(defined_result), given, cotangent);
      for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(torch::allclose(got[i], expected[i], 1e-9, 1e-10)) << i;
    }
  }
}

TEST(HalfNorm, EqualsFiniteDifferences) {
  torch::manual_seed(1);
  const Inputs in = inputs({2, 2, 5});
  for (const Tensor& bias : {in.bias.clone().set_requires_grad(true), Tensor()}) {
    std::vector<Tensor> given = {in.x.clone().set_requires_grad(true), in.gain.clone().set_requires_grad(true)};
    if (bias.defined()) given.push_back(bias);
    harness::expect_finite_differences(
        [](const std::vector<Tensor>& x) {
          return half_norm(x[0], x[1], x.size() > 2 ? std::optional(x[2]) : std::nullopt);
        },
        given);
  }
}

TEST(HalfNorm, KeepsTheErrorRuleInFloat) {
  torch::manual_seed(2);
  for (const int64_t w : {7, 64, 128, 200}) {
    for (const bool with_bias : {true, false}) {
      const Inputs in = inputs({500, 3, w}, torch::kFloat);
      const auto run = [&](auto norm, torch::ScalarType type) {
        std::vector<Tensor> leaves;
        for (const Tensor& t : {in.x, in.gain, in.bias}) {
          leaves.push_back(t.to(type).detach().clone().set_requires_grad(true));
        }
        torch::manual_seed(3);
        const Tensor cotangent = torch::randn(in.x.sizes(), torch::kFloat).to(type);
        const Tensor y = norm(leaves[0], leaves[1], with_bias ? std::optional(leaves[2]) : std::nullopt, 1e-5);
        y.backward(cotangent);
        return std::vector<Tensor>{y.detach(), leaves[0].grad(), leaves[1].grad()};
      };
      const auto got = run(half_norm, torch::kFloat), defined = run(defined_result, torch::kFloat),
                 exact = run(defined_result, torch::kDouble);
      for (size_t i = 0; i < got.size(); ++i) harness::expect_error_rule(got[i], defined[i], exact[i]);
    }
  }
}

TEST(HalfNorm, HasTheSameBitsAtEveryLevelAndForAnyStrides) {
  torch::manual_seed(5);
  for (const Case& c : cases()) {
    for (const auto type : {torch::kFloat, torch::kDouble}) {
      for (const bool with_bias : {true, false}) {
        SCOPED_TRACE(::testing::Message() << "T " << c.T << " H " << c.H << " w " << c.w << " bias " << with_bias);
        const Inputs in = inputs(c, type);
        const Tensor grad = torch::randn_like(in.x);
        const auto run = [&](CpuLevel level, bool awkward) {
          const auto form = [&](const Tensor& x) { return awkward ? strided(x) : x; };
          const std::optional<Tensor> bias = with_bias ? std::optional(form(in.bias)) : std::nullopt;
          const auto [y, mean, scale] = half_norm_cpu(form(in.x), form(in.gain), bias, 1e-5, level);
          const auto [dx, dgain, dbias] =
              half_norm_backward_cpu(form(grad), form(in.x), form(in.gain), form(mean), form(scale), with_bias, level);
          EXPECT_EQ(dbias.defined(), with_bias);
          return std::vector<Tensor>{y, mean, scale, dx, dgain, with_bias ? dbias : dgain};
        };
        const auto base = run(CpuLevel::base, false);
        for (const CpuLevel level : cpu_levels()) {
          const auto got = run(level, false), awkward = run(level, true);
          for (size_t i = 0; i < base.size(); ++i) {
            EXPECT_TRUE(same_bits(got[i], base[i])) << name_of(level) << " " << i;
            EXPECT_TRUE(same_bits(awkward[i], base[i])) << name_of(level) << " strided " << i;
          }
        }
      }
    }
  }
}

TEST(HalfNorm, EqualsTheFrameworksNormalisations) {
  torch::manual_seed(6);
  const Inputs in = inputs({9, 3, 21});
  EXPECT_TRUE(torch::allclose(half_norm(in.x, in.gain, in.bias),
                              at::layer_norm(in.x, {21}, {}, {}, 1e-5) * in.gain + in.bias, 1e-10, 1e-12));
  EXPECT_TRUE(torch::allclose(half_norm(in.x, in.gain, std::nullopt), at::rms_norm(in.x, {21}, {}, 1e-5) * in.gain,
                              1e-10, 1e-12));
}

TEST(HalfNorm, AnswersOnEveryDevice) {
  torch::manual_seed(7);
  const auto run = [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
    const std::optional<Tensor> bias = x[2].defined() ? std::optional(x[2]) : std::nullopt;
    const Tensor half = x[0].select(3, 0).contiguous();
    const auto [dx, dgain, dbias] = half_norm_backward(x[0], x[0], x[1], half, half, bias.has_value());
    return {half_norm(x[0], x[1], bias), dx, dgain, dbias};
  };
  for (const Case& c : cases()) {
    if (c.w == 0) continue;  // has no first column to stand for the mean
    const Inputs in = inputs(c, torch::kFloat);
    harness::expect_the_same_on_every_device(run, {in.x, in.gain, in.bias}, 1e-3);
    harness::expect_the_same_on_every_device(run, {in.x, in.gain, Tensor()}, 1e-3);
  }
}

TEST(HalfNorm, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(4);
  const Inputs in = inputs({1100, 4, 33}, torch::kFloat);
  const Tensor cotangent = torch::randn(in.x.sizes());
  harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> {
    const Tensor x = in.x.clone().set_requires_grad(true), gain = in.gain.clone().set_requires_grad(true),
                 bias = in.bias.clone().set_requires_grad(true);
    const Tensor y = half_norm(x, gain, bias);
    y.backward(cotangent);
    return {y.detach(), x.grad(), gain.grad(), bias.grad()};
  });
}

TEST(HalfNorm, RefusesWhatItCannotDoInThreeParts) {
  const Inputs in = inputs({2, 3, 4}, torch::kFloat);
  const auto message = [](const Tensor& x, const Tensor& gain, const Tensor& bias) {
    return harness::message_of([&] { half_norm(x, gain, bias); });
  };
  EXPECT_THAT(message(in.x.to(torch::kHalf), in.gain, in.bias),
              testing::HasSubstr("half_norm: x must be [T, H, 2, w] of float32 or float64, got [2, 3, 2, 4] of Half"));
  EXPECT_THAT(message(in.x, in.gain[0], in.bias),
              testing::HasSubstr("half_norm: gain and bias must be [3, 2, 4] of Float on cpu, got [2, 4] of Float"));
  EXPECT_THAT(message(in.x, in.gain, in.bias.to(torch::kDouble)), testing::HasSubstr("got [3, 2, 4] of Double"));
  const Tensor x = in.x.clone().set_requires_grad(true);
  const Tensor grad =
      torch::autograd::grad({half_norm(x, in.gain, in.bias).square().sum()}, {x}, {}, std::nullopt, true)[0];
  EXPECT_THAT(harness::message_of([&] { grad.sum().backward(); }),
              testing::HasSubstr("half_norm: a second derivative is not implemented"));
}

}  // namespace
}  // namespace loci::half_norm_test
