// Legend: S seeds, B samples, R registers, M values and cells, W width, T steps.
#include "loci/ops/ram_unroll/ram_unroll.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/ops/ram_unroll/ram_unroll_definition.h"
#include "tests/op_harness.h"

namespace loci::ram_unroll_test {
namespace {

using harness::Tensor;

struct Case {
  Tensor parameters;
  RamUnrollInput input;
  RamUnrollOptions options;
};

Case make_case(int64_t S, int64_t B, int64_t M, int64_t T, bool lstm, int64_t repeats, at::ScalarType type) {
  std::vector<RamModule> modules = standard_modules();
  modules.push_back(
      {"TIMES", 2, RamModule::Role::pure, [](uint32_t a, uint32_t b, uint32_t m) -> uint32_t { return a * b % m; }});
  modules.insert(modules.begin() + 5,
                 {"HALF", 1, RamModule::Role::pure, [](uint32_t a, uint32_t, uint32_t) -> uint32_t { return a / 2; }});
  Case c;
  c.options.machine = ram_step_options(3, modules, repeats, M);
  c.options.machine.clip = 10;
  c.options.lstm = lstm;
  c.options.width = 5;
  const auto real = torch::dtype(type);
  c.parameters = (0.4 * torch::randn({S, c.options.parameters()}, torch::kDouble)).to(type);
  c.input.tape = torch::randint(M, {S, B, M}, torch::kInt);
  c.input.target = torch::randint(M, {S, B, M}, torch::kInt).masked_fill(torch::rand({S, B, M}).gt(0.4), -1);
  c.input.cell_weight = torch::rand({S, B, M}, torch::kDouble).to(type);
  c.input.steps = torch::full({S}, T, torch::kLong);
  for (int64_t s = 1; s < S; ++s) c.input.steps[s] = 1 + (T + s) % T;
  c.input.bonus = torch::linspace(0.1, -0.05, S, real);
  return c;
}

double difference(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0) return 0;
  return ((a - b).abs().max() / b.abs().max().clamp_min(1)).item<double>();
}

void expect_equal_to_definition(const Case& c) {
  const RamUnrollOutput fast = ram_unroll(c.parameters, c.input, c.options, true);
  const RamUnrollOutput slow = ram_unroll_definition(c.parameters, c.input, c.options, true);
  EXPECT_LE(difference(fast.loss, slow.loss), 1e-12);
  EXPECT_LE(difference(fast.entropy, slow.entropy), 1e-12);
  EXPECT_LE(difference(fast.objective, slow.objective), 1e-12);
  EXPECT_LE(difference(fast.gradient, slow.gradient), 1e-10);
  EXPECT_TRUE(torch::equal(fast.wrong, slow.wrong));
  EXPECT_TRUE(fast.sound.all().item<bool>());
}

TEST(RamUnroll, EqualsTheDefinition) {
  torch::manual_seed(1);
  for (const bool lstm : {false, true}) {
    for (const bool mixture : {false, true}) {
      for (const int64_t repeats : {1, 2}) {
        for (const auto& [B, M, T] : {std::array<int64_t, 3>{1, 3, 1}, {9, 8, 4}, {17, 5, 6}}) {
          Case c = make_case(2, B, M, T, lstm, repeats, torch::kDouble);
          c.options.mixture = mixture;
          c.options.machine.renormalise = B != 17;
          SCOPED_TRACE(fmt::format("lstm {} mixture {} repeats {} B {} M {} T {}", lstm, mixture, repeats, B, M, T));
          expect_equal_to_definition(c);
        }
      }
    }
  }
}

TEST(RamUnroll, EqualsTheDefinitionBelowTheFloorAndWithoutABonus) {
  torch::manual_seed(2);
  for (const bool mixture : {false, true}) {
    Case c = make_case(1, 9, 8, 4, false, 1, torch::kDouble);
    c.options.mixture = mixture;
    c.options.floor = 0.12;  // near an even distribution's: some cells are below it
    c.input.bonus.zero_();
    expect_equal_to_definition(c);
    EXPECT_GT(ram_unroll(c.parameters, c.input, c.options, false).entropy.min().item<double>(), 0);
  }
}

TEST(RamUnroll, GradientEqualsFiniteDifferences) {
  torch::manual_seed(3);
  for (const bool lstm : {false, true}) {
    Case c = make_case(1, 2, 4, 3, lstm, 1, torch::kDouble);
    c.options.machine.renormalise = false;
    c.options.machine.clip = std::numeric_limits<double>::infinity();
    c.options.width = 2;
    c.parameters = 0.3 * torch::randn({1, c.options.parameters()}, torch::kDouble);
    c.parameters.requires_grad_();
    harness::expect_finite_differences(
        [&](const std::vector<Tensor>& x) { return ram_unroll(x[0], c.input, c.options, true).objective; },
        {c.parameters});
  }
}

TEST(RamUnroll, OnlyTheObjectiveHasAGradientAndOnlyOnce) {
  Case c = make_case(2, 3, 8, 4, false, 1, torch::kDouble);
  c.parameters.requires_grad_();
  const RamUnrollOutput out = ram_unroll(c.parameters, c.input, c.options, true);
  for (const Tensor& t : {out.loss, out.entropy, out.wrong, out.gradient, out.sound}) EXPECT_FALSE(t.requires_grad());
  const Tensor weight = torch::tensor({2.0, -3.0}, torch::kDouble);
  const Tensor first = torch::autograd::grad({(out.objective * weight).sum()}, {c.parameters}, {}, true, true)[0];
  EXPECT_TRUE(torch::equal(first, out.gradient * weight.unsqueeze(1)));
  EXPECT_THAT(harness::message_of([&] { first.square().sum().backward(); }),
              testing::HasSubstr("ram_unroll: a second derivative is not implemented"));
  EXPECT_FALSE(ram_unroll(c.parameters, c.input, c.options, false).objective.requires_grad());
}

TEST(RamUnroll, TakesNoSeeds) {
  const Case c = make_case(2, 3, 8, 4, false, 1, torch::kFloat);
  for (const bool with_gradient : {false, true}) {
    for (const auto run : {ram_unroll, ram_unroll_definition}) {
      const auto none = [](const Tensor& x) { return x.narrow(0, 0, 0); };
      const RamUnrollInput input{none(c.input.tape), none(c.input.target), none(c.input.cell_weight),
                                 none(c.input.steps), none(c.input.bonus)};
      const RamUnrollOutput out = run(none(c.parameters), input, c.options, with_gradient);
      EXPECT_EQ(out.objective.sizes(), torch::IntArrayRef({0}));
      EXPECT_EQ(out.loss.sizes(), torch::IntArrayRef({0, 3}));
      EXPECT_EQ(out.gradient.sizes(), torch::IntArrayRef({0, with_gradient ? c.options.parameters() : 0}));
    }
  }
}

TEST(RamUnroll, HasTheParametersOfThePaper) {
  RamUnrollOptions options;
  options.machine = ram_step_options(4, standard_modules(), 1, 8);
  EXPECT_EQ(options.machine.logits() + 1, 308);
  EXPECT_EQ(options.parameters(), 24500);
}

TEST(RamUnroll, ClipsActivationGradients) {
  torch::manual_seed(4);
  Case c = make_case(1, 9, 8, 4, false, 1, torch::kDouble);
  const auto gradient = [&](double clip) {
    c.options.machine.clip = clip;
    return ram_unroll(c.parameters, c.input, c.options, true).gradient;
  };
  EXPECT_TRUE(torch::equal(gradient(1e9), gradient(std::numeric_limits<double>::infinity())));
  EXPECT_FALSE(torch::equal(gradient(1e-3), gradient(1e9)));
  expect_equal_to_definition(c);
  c.options.machine.clip = 1e-3;
  expect_equal_to_definition(c);
}

TEST(RamUnroll, TheLastStepTakesWhatIsLeft) {
  const Tensor never = ram_stop_definition(torch::full({1, 4}, -1000.0, torch::kDouble));
  EXPECT_LE((never - torch::tensor({{0.0, 0.0, 0.0, 1.0}}, torch::kDouble)).abs().max().item<double>(), 1e-12);
  const Tensor at_once = ram_stop_definition(torch::full({1, 4}, 1000.0, torch::kDouble));
  EXPECT_LE((at_once - torch::tensor({{1.0, 0.0, 0.0, 0.0}}, torch::kDouble)).abs().max().item<double>(), 1e-12);
  EXPECT_TRUE(
      torch::equal(ram_stop_definition(torch::randn({3, 1}, torch::kDouble)), torch::ones({3, 1}, torch::kDouble)));
  torch::manual_seed(5);
  EXPECT_LE((ram_stop_definition(torch::randn({9, 7}, torch::kDouble)).sum(1) - 1).abs().max().item<double>(), 1e-13);
}

TEST(RamUnroll, HugeStopLogitsGiveNoNaN) {
  torch::manual_seed(6);
  for (const double huge : {-1e30, 1e30}) {
    Case c = make_case(1, 4, 8, 5, false, 1, torch::kFloat);
    c.parameters[0][c.options.parameters() - 1] = huge;  // the bias of the stop logit
    const RamUnrollOutput out = ram_unroll(c.parameters, c.input, c.options, true);
    EXPECT_TRUE(out.gradient.isfinite().all().item<bool>());
    EXPECT_TRUE(out.objective.isfinite().all().item<bool>());
  }
}

TEST(RamUnroll, ASeedHasTheSameBitsAloneAndTogetherWithOthers) {
  torch::manual_seed(7);
  const Case c = make_case(5, 40, 8, 6, false, 1, torch::kFloat);
  const RamUnrollOutput all = ram_unroll(c.parameters, c.input, c.options, true);
  for (int64_t s = 0; s < 5; ++s) {
    const auto one = [&](const Tensor& x) { return x.narrow(0, s, 1); };
    const RamUnrollOutput alone = ram_unroll(
        one(c.parameters),
        {one(c.input.tape), one(c.input.target), one(c.input.cell_weight), one(c.input.steps), one(c.input.bonus)},
        c.options, true);
    EXPECT_TRUE(harness::same_bits(alone.gradient, one(all.gradient)));
    EXPECT_TRUE(harness::same_bits(alone.loss, one(all.loss)));
    const RamUnrollOutput forward = ram_unroll(c.parameters, c.input, c.options, false);
    EXPECT_TRUE(harness::same_bits(forward.loss, all.loss));
    EXPECT_EQ(forward.gradient.size(1), 0);
  }
}

TEST(RamUnroll, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(8);
  const Case c = make_case(3, 50, 8, 5, false, 1, torch::kFloat);
  harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> {
    const RamUnrollOutput out = ram_unroll(c.parameters, c.input, c.options, true);
    return {out.objective, out.loss, out.entropy, out.wrong, out.gradient};
  });
}

TEST(RamUnroll, Float32FollowsFloat64) {
  torch::manual_seed(9);
  Case c = make_case(1, 33, 13, 6, false, 1, torch::kDouble);
  Case f = c;
  f.parameters = c.parameters.to(torch::kFloat), f.input.cell_weight = c.input.cell_weight.to(torch::kFloat);
  f.input.bonus = c.input.bonus.to(torch::kFloat);
  c.parameters = f.parameters.to(torch::kDouble), c.input.cell_weight = f.input.cell_weight.to(torch::kDouble);
  c.input.bonus = f.input.bonus.to(torch::kDouble);
  const Tensor exact = ram_unroll_definition(c.parameters, c.input, c.options, true).gradient;
  harness::expect_error_rule(ram_unroll(f.parameters, f.input, f.options, true).gradient,
                             ram_unroll_definition(f.parameters, f.input, f.options, true).gradient, exact);
}

TEST(RamUnroll, RefusesBadInputWithWhoWhatAndGot) {
  const Case c = make_case(2, 3, 8, 4, false, 1, torch::kFloat);
  const auto message = [&](const Case& bad) {
    return harness::message_of([&] { ram_unroll(bad.parameters, bad.input, bad.options, true); });
  };
  Case bad = c;
  bad.input.tape = c.input.tape.clone().fill_(8);
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_unroll: tape must hold 0 .. 7, got 8 .. 8"));
  bad = c;
  bad.input.steps = torch::zeros({2}, torch::kLong);
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_unroll: steps must be at least 1, got 0"));
  bad = c;
  bad.parameters = c.parameters.narrow(1, 0, 5);
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_unroll: parameters must be [2, "));
  bad = c;
  const auto no_samples = [](const Tensor& x) { return x.narrow(1, 0, 0); };
  bad.input.tape = no_samples(c.input.tape), bad.input.target = no_samples(c.input.target);
  bad.input.cell_weight = no_samples(c.input.cell_weight);
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_unroll: samples must be at least 1, got 0"));
  bad = c;
  bad.options.floor = 0;
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_unroll: floor must be in (0, 1), got 0"));
  EXPECT_THAT(harness::message_of([] { ram_step_options(2, standard_modules(), 1, 2); }), "");
  bad = c;
  bad.input.tape = torch::zeros({2, 3, 2}, torch::kInt);
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_unroll: M must be at least 3"));
}

}  // namespace
}  // namespace loci::ram_unroll_test
