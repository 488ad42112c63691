#include "loci/optim/shift_adamax.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "loci/base/config.h"
#include "loci/optim/optimizer_set.h"
#include "tests/op_harness.h"

namespace loci {
namespace {

using torch::Tensor;

double power_of(double z) {
  return z == 0 ? 0 : std::exp2(std::round(std::log2(z)));
}

DenseOptimizerOptions adamax_options(double rate, double decay = 0) {
  return {.kind = DenseRule::shift_adamax,
          .learning_rate = rate,
          .beta1 = 0.9,
          .beta2 = 0.999,
          .weight_decay = decay,
          .clip_norm = 0,
          .schedule = {.kind = ScheduleKind::constant, .warmup = 0}};
}

// The formula one number after another, with the paper's decays.
TEST(ShiftAdamax, IsItsFormula) {
  torch::manual_seed(0);
  for (const double decay : {0.0, 0.1}) {
    const double rate = 0.003, factor = 5, divisor = 2;
    const Tensor p = torch::randn({5, 3}, torch::kDouble).requires_grad_();
    OptimizerSet set({{.name = "p", .value = p, .rate = factor}}, adamax_options(rate, decay), {}, 0);
    std::vector<double> value(15), m(15, 0.0), v(15, 0.0);
    for (int64_t i = 0; i < 15; ++i) value[i] = p.view(-1)[i].item<double>();
    for (int64_t t = 1; t <= 6; ++t) {
      const Tensor grad = torch::randn({5, 3}, torch::kDouble) * std::exp2(-t);
      grad[0].zero_();
      p.mutable_grad() = grad.clone();
      set.step(t - 1, 6, divisor);
      for (int64_t i = 0; i < 15; ++i) {
        const double g = grad.view(-1)[i].item<double>() / divisor;
        m[i] = 0.875 * m[i] + 0.125 * g;
        v[i] = std::max(1023.0 / 1024 * v[i], std::fabs(g));
        value[i] -= value[i] * rate * factor * decay;
        if (v[i] > 0) value[i] -= power_of(rate * factor / (1 - std::pow(0.875, t))) * m[i] / power_of(v[i]);
        EXPECT_NEAR(p.view(-1)[i].item<double>(), value[i], 1e-12) << t << " " << i;
      }
    }
  }
}

TEST(ShiftAdamax, StepsArePowersOfTwoOfTheFirstGradient) {
  const Tensor p = torch::zeros({4}).requires_grad_();
  OptimizerSet set({{.name = "p", .value = p}}, adamax_options(1.0 / 1024), {}, 0);
  p.mutable_grad() = torch::tensor({1.0F, -3.0F, 0.0F, 1.5F});
  set.step(0, 1);
  // AP2(2^-10 / 2^-3) = 2^-7, and m / AP2(v) is 2^-3 g / AP2(|g|).
  EXPECT_TRUE(torch::equal(p.detach() * 1024, torch::tensor({-1.0F, 0.75F, 0.0F, -0.75F}))) << p;
}

TEST(ShiftAdamax, GoesOnFromItsStateAndClearsIt) {
  torch::manual_seed(1);
  const Tensor start = torch::randn({6, 4, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast);
  const Tensor whole = start.clone().requires_grad_(), other = start.clone().requires_grad_();
  OptimizerSet first({{.name = "p", .value = whole}}, adamax_options(0.01), {}, 0);
  const auto step = [](OptimizerSet& set, const Tensor& p, int64_t at) {
    torch::manual_seed(at);
    p.mutable_grad() = torch::randn({6, 4, 3, 3});
    set.step(at, 6);
  };
  for (int64_t at = 0; at < 3; ++at) step(first, whole, at);
  OptimizerSet second({{.name = "p", .value = other}}, adamax_options(0.01), {}, 0);
  {
    const torch::NoGradGuard guard;
    other.copy_(whole);
    const auto from = first.state(), to = second.state();
    ASSERT_EQ(to.size(), 3);
    EXPECT_EQ(to[1].first, "dense.p.largest");
    for (size_t i = 0; i < to.size(); ++i) to[i].second.copy_(from[i].second);
  }
  for (int64_t at = 3; at < 6; ++at) {
    step(first, whole, at);
    step(second, other, at);
  }
  EXPECT_TRUE(harness::same_bits(whole.detach(), other.detach()));
  EXPECT_TRUE(whole.is_contiguous(at::MemoryFormat::ChannelsLast));
  first.clear_state(whole);
  for (const auto& [name, tensor] : first.state()) EXPECT_EQ(tensor.count_nonzero().item<int64_t>(), 0) << name;
}

TEST(ShiftAdamax, ClearedRowsTakeTheMeanOfOthers) {
  torch::manual_seed(2);
  const Tensor p = torch::randn({4, 3}).requires_grad_();
  OptimizerSet set({{.name = "p", .value = p}}, adamax_options(0.01), {}, 0);
  p.mutable_grad() = torch::randn({4, 3});
  set.step(0, 2);
  const auto state = set.state();
  const Tensor mean = (state[1].second[0] + state[1].second[2]) / 2;
  set.clear_rows(p, torch::tensor({1}), torch::tensor({0, 2}));
  EXPECT_EQ(state[0].second[1].count_nonzero().item<int64_t>(), 0);
  EXPECT_TRUE(torch::allclose(state[1].second[1], mean, 1e-6, 0));
}

TEST(ShiftAdamax, ReadsTheKeysOfItsKindAlone) {
  const auto read = [](const std::string& text) {
    return harness::message_of([&] {
      DenseOptimizerOptions options;
      Config::from_text(text).read(options);
    });
  };
  EXPECT_EQ(read("kind = \"shift_adamax\"\nbeta1 = 0.875\nbeta2 = 0.999"), "");
  EXPECT_THAT(read("kind = \"shift_adamax\"\nepsilon = 1e-8"), testing::HasSubstr("epsilon must be left out"));
  EXPECT_EQ(adamax_options(1).state_bytes(), 8);
}

}  // namespace
}  // namespace loci
