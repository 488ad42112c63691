#include "loci/optim/random_bases.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <cmath>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/optim/optimizer_set.h"
#include "tests/op_harness.h"
#include "tests/temporary_folder.h"

// Legend: n weights, d directions.

namespace loci {
namespace {

using at::Tensor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

DenseOptimizerOptions with(const RandomBasesOptions& bases, double rate = 1) {
  return {.kind = DenseRule::random_bases,
          .learning_rate = rate,
          .weight_decay = 0,
          .clip_norm = 0,
          .bases = bases,
          .schedule = {.warmup = 0}};
}

// A matrix, a filter in the layout channels last, a vector.
std::vector<NamedParameter> parameters_of(int64_t rows) {
  torch::manual_seed(rows);
  return {{.name = "w", .value = torch::randn({rows, 30}).requires_grad_()},
          {.name = "f",
           .value = torch::randn({6, 4, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast).requires_grad_(),
           .rate = 0.5},
          {.name = "b", .value = torch::randn({7}).requires_grad_(), .decay = false}};
}

std::vector<Tensor> values_of(const std::vector<NamedParameter>& parameters) {
  std::vector<Tensor> values;
  for (const NamedParameter& parameter : parameters) values.push_back(parameter.value);
  return values;
}

std::vector<Tensor> copies_of(const std::vector<NamedParameter>& parameters) {
  std::vector<Tensor> values;
  for (const NamedParameter& parameter : parameters) values.push_back(parameter.value.detach().clone());
  return values;
}

void draw_gradients(const std::vector<NamedParameter>& parameters, int64_t seed) {
  torch::manual_seed(seed);
  for (const NamedParameter& parameter : parameters) {
    parameter.value.mutable_grad() = torch::randn(parameter.value.sizes());
  }
}

Tensor flat(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> parts;
  for (const Tensor& tensor : tensors) parts.push_back(tensor.detach().reshape(-1));
  return torch::cat(parts);
}

Tensor flat_gradient(const std::vector<NamedParameter>& parameters) {
  std::vector<Tensor> gradients;
  for (const NamedParameter& parameter : parameters) gradients.push_back(parameter.value.grad());
  return flat(gradients);
}

TEST(RandomBases, SharesOfDirectionsAreInProportionAndAtLeastOne) {
  EXPECT_THAT(share_directions(250, {100'352, 128, 1280, 10}), ElementsAre(246, 1, 2, 1));
  EXPECT_THAT(share_directions(10, {50, 30, 20}), ElementsAre(5, 3, 2));
  EXPECT_THAT(share_directions(3, {1000, 1, 1}), ElementsAre(1, 1, 1));
  EXPECT_THAT(share_directions(1002, {1000, 1, 1}), ElementsAre(1000, 1, 1));
  expect_error(ExitCode::usage, "directions must be from 3 (the compartments) to 9 (the weights), got 2",
               [] { share_directions(2, {3, 3, 3}); });
  expect_error(ExitCode::usage, "got 10", [] { share_directions(10, {3, 3, 3}); });
}

// The formulas of random_bases.h with stored directions.
TEST(RandomBases, TakesTheStepOfTheStoredBasis) {
  constexpr int64_t d = 40;
  constexpr double rate = 3, decay = 0.25;
  for (const Compartments compartments : {Compartments::one, Compartments::per_tensor}) {
    const auto parameters = parameters_of(50);
    DenseOptimizerOptions options = with({.directions = d, .compartments = compartments});
    options.weight_decay = decay;
    RandomBases rule(options, parameters, 11);
    for (int64_t step = 0; step < 3; ++step) {
      draw_gradients(parameters, step);
      const auto before = copies_of(parameters);
      std::vector<Tensor> expected;
      std::vector<Tensor> gradients;
      for (const NamedParameter& p : parameters) {
        gradients.push_back((p.value.grad() / 2 + (p.decay ? decay / 2 : 0) * p.value.detach()).reshape(-1));
      }
      const auto along = [&](const Tensor& gradient, int64_t compartment, int64_t directions) {
        const Tensor phi = random_basis(gradient.numel(), 0, directions, {11, step, compartment}, torch::kDouble);
        return phi.t().matmul(phi.matmul(gradient.to(torch::kDouble)));
      };
      if (compartments == Compartments::one) {
        for (const Tensor& part : along(torch::cat(gradients), 0, d).split_with_sizes({1500, 216, 7})) {
          expected.push_back(part);
        }
      } else {
        const auto shares = share_directions(d, {1500, 216, 7});
        const std::vector<double> weights = {1500, 216, 7};
        for (int64_t i = 0; i < 3; ++i) {
          const double scale = weights[i] / static_cast<double>(shares[i]) * d / 1723;
          expected.push_back(scale * along(gradients[i], i, shares[i]));
        }
      }
      rule.step(values_of(parameters), rate, 2);
      for (size_t i = 0; i < 3; ++i) {
        const Tensor moved = parameters[i].value.detach() - before[i];
        EXPECT_TRUE(torch::allclose(moved.reshape(-1), (-rate * parameters[i].rate * expected[i]).to(torch::kFloat),
                                    1e-4, 1e-5))
            << i;
      }
    }
    EXPECT_TRUE(parameters[1].value.is_contiguous(at::MemoryFormat::ChannelsLast));
  }
}

TEST(RandomBases, WhatHasNoGradientKeepsItsBitsAndIsAZeroOfTheOthers) {
  const auto parameters = parameters_of(50), others = parameters_of(50);
  RandomBases rule(with({.directions = 20}), parameters, 0), other_rule(with({.directions = 20}), others, 0);
  draw_gradients(parameters, 0);
  draw_gradients(others, 0);
  others[1].value.mutable_grad().zero_();
  const Tensor before = parameters[1].value.detach().clone();
  rule.step({parameters[0].value, parameters[2].value}, 1, 1);
  other_rule.step(values_of(others), 1, 1);
  EXPECT_TRUE(parameters[1].value.equal(before));
  EXPECT_TRUE(parameters[0].value.equal(others[0].value));
  EXPECT_FALSE(others[1].value.equal(before));
}

// The published facts: the cosine of step and gradient is sqrt(d / n), and the step's length that share of the
// gradient's.
TEST(RandomBases, TheCosineOfStepAndGradientIsTheRootOfTheShareOfDirections) {
  const NamedParameter parameter{.name = "w", .value = torch::zeros({100, 339}).requires_grad_()};
  torch::manual_seed(0);
  parameter.value.mutable_grad() = torch::randn({100, 339});
  const Tensor gradient = parameter.value.grad().reshape(-1).to(torch::kDouble);
  for (const BasisValues values : {BasisValues::normal, BasisValues::signs}) {
    for (const int64_t d : {250, 1000}) {
      RandomBases rule(with({.directions = d, .values = values}), {parameter}, 1);
      double cosine = 0, length = 0;
      constexpr int64_t steps = 20;
      for (int64_t step = 0; step < steps; ++step) {
        parameter.value.detach().zero_();
        rule.step({parameter.value}, 1, 1);
        const Tensor moved = parameter.value.detach().reshape(-1).to(torch::kDouble);
        cosine += -(moved.dot(gradient) / moved.norm() / gradient.norm()).item<double>() / steps;
        length += (moved.norm() / gradient.norm()).item<double>() / steps;
      }
      const double root = std::sqrt(static_cast<double>(d) / static_cast<double>(gradient.numel()));
      EXPECT_NEAR(cosine, root, 0.03 * root) << d;
      EXPECT_NEAR(length, root, 0.03 * root) << d;
    }
  }
}

// What is exchanged has d numbers. Each rank draws its part of the directions alone.
TEST(RandomBases, TwoRanksOfHalfTheDirectionsHaveTheBitsOfOne) {
  for (const Compartments compartments : {Compartments::one, Compartments::per_tensor}) {
    const auto alone = parameters_of(50), first = parameters_of(50), second = parameters_of(50);
    const DenseOptimizerOptions options = with({.directions = 41, .compartments = compartments});
    RandomBases rule(options, alone, 7), rule0(options, first, 7), rule1(options, second, 7);
    for (int64_t step = 0; step < 3; ++step) {
      for (const auto* parameters : {&alone, &first, &second}) draw_gradients(*parameters, step);
      rule.step(values_of(alone), 2, 3);
      const Tensor c0 = rule0.coefficients(values_of(first), 3, 0, 2);
      const Tensor c1 = rule1.coefficients(values_of(second), 3, 1, 2);
      EXPECT_EQ(c0.numel(), 41);
      EXPECT_EQ((c0 != 0).logical_and(c1 != 0).sum().item<int64_t>(), 0);
      EXPECT_NEAR((c0 != 0).sum().item<double>(), 20.5, 1.5);  // half a direction for each compartment
      rule0.move(values_of(first), c0 + c1, 2);
      rule1.move(values_of(second), c0 + c1, 2);
      for (size_t i = 0; i < alone.size(); ++i) {
        EXPECT_TRUE(harness::same_bits(first[i].value.detach(), alone[i].value.detach()));
        EXPECT_TRUE(harness::same_bits(second[i].value.detach(), alone[i].value.detach()));
      }
    }
  }
}

// A quadratic well in 60 dimensions: bases that stay reach what 6 dimensions can, bases that are drawn anew the bottom.
TEST(RandomBases, FixedBasesNeverLeaveTheirPlaneAndNewOnesReachTheBottom) {
  torch::manual_seed(4);
  const Tensor target = torch::randn({60});
  for (const bool fixed : {false, true}) {
    const NamedParameter parameter{.name = "w", .value = torch::zeros({60}).requires_grad_()};
    OptimizerSet set({parameter}, with({.directions = 6, .fixed = fixed}, 0.5), {}, 3);
    for (int64_t step = 0; step < 300; ++step) {
      (parameter.value - target).square().sum().div(2).backward();
      ASSERT_FALSE(set.step(step, 300).skipped);
    }
    const Tensor reached = parameter.value.detach();
    const double left = ((reached - target).norm() / target.norm()).item<double>();
    const Tensor plane = std::get<0>(torch::linalg_qr(random_basis(60, 0, 6, {3, 0, 0}).t()));  // [60, 6]
    const double outside = ((reached - plane.matmul(plane.t().matmul(reached))).norm() / reached.norm()).item<double>();
    if (fixed) {
      EXPECT_LT(outside, 1e-4);
      EXPECT_NEAR(left, ((target - plane.matmul(plane.t().matmul(target))).norm() / target.norm()).item<double>(),
                  1e-3);
    } else {
      EXPECT_LT(left, 0.01);
      EXPECT_GT(outside, 0.5);
    }
  }
}

// For a linear loss differences of losses are the inner products themselves.
TEST(RandomBases, CoefficientsFromLossesAreThoseOfTheGradient) {
  for (const Compartments compartments : {Compartments::one, Compartments::per_tensor}) {
    for (const LossBaseline baseline : {LossBaseline::none, LossBaseline::mean}) {
      auto parameters = parameters_of(10), others = parameters_of(10);
      draw_gradients(parameters, 1);
      const Tensor gradient = flat_gradient(parameters), origin = flat(values_of(parameters));
      const RandomBasesOptions losses{.directions = 30,
                                      .compartments = compartments,
                                      .from = CoefficientsFrom::losses,
                                      .distance = 0.5,
                                      .baseline = baseline};
      RandomBases rule(with({.directions = 30, .compartments = compartments}), parameters, 5);
      Tensor c = rule.coefficients(values_of(parameters), 1);
      OptimizerSet set(others, with(losses), {}, 5);
      ASSERT_TRUE(set.by_losses());
      int64_t calls = 0;
      set.set_loss([&] {
        ++calls;
        return (flat(values_of(others)) - origin).to(torch::kDouble).dot(gradient.to(torch::kDouble)).item<double>();
      });
      const StepReport report = set.step(0, 10);
      EXPECT_FALSE(report.skipped);
      EXPECT_GT(report.rate, 0);
      EXPECT_EQ(calls, 30);
      if (baseline == LossBaseline::mean) {
        const auto shares =
            compartments == Compartments::one ? std::vector<int64_t>{30} : share_directions(30, {300, 216, 7});
        std::vector<Tensor> parts;
        for (const Tensor& part : c.split_with_sizes(shares)) parts.push_back(part - part.mean());
        c = torch::cat(parts);
      }
      rule.move(values_of(parameters), c, report.rate);
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_TRUE(torch::allclose(others[i].value, parameters[i].value, 1e-4, 1e-4)) << i;
      }
    }
  }
}

TEST(RandomBases, LossesThatAreNotFiniteChangeNothing) {
  int hooks = 0;
  const NamedParameter parameter{
      .name = "w", .value = torch::randn({40}).requires_grad_(), .after_update = [&](Tensor&) { ++hooks; }};
  const Tensor before = parameter.value.detach().clone();
  OptimizerSet set({parameter}, with({.directions = 4, .from = CoefficientsFrom::losses}), {}, 0);
  int64_t call = 0;
  set.set_loss([&] { return ++call == 3 ? std::nan("") : 1.0; });
  EXPECT_TRUE(set.step(0, 2).skipped);
  EXPECT_TRUE(parameter.value.equal(before));
  EXPECT_EQ(set.state()[0].second.item<int64_t>(), 0);
  EXPECT_EQ(hooks, 0);
  expect_error(ExitCode::bug, "a rule of losses must be given one", [&] { set.step(0, 2); });
  set.set_loss([&] { return parameter.value.sum().item<double>(); });
  EXPECT_FALSE(set.step(1, 2).skipped);
  EXPECT_FALSE(parameter.value.equal(before));
  EXPECT_EQ(hooks, 1);
}

TEST(RandomBases, ResumesBitForBit) {
  const auto whole = parameters_of(20), half = parameters_of(20);
  const DenseOptimizerOptions options = with({.directions = 10});
  OptimizerSet set(whole, options, {}, 2), begun(half, options, {}, 2), resumed(half, options, {}, 2);
  for (int64_t step = 0; step < 6; ++step) {
    draw_gradients(whole, step);
    set.step(step, 6);
    if (step == 3) {
      EXPECT_EQ(begun.state()[0].first, "dense.bases.steps");
      for (size_t i = 0; i < begun.state().size(); ++i) resumed.state()[i].second.copy_(begun.state()[i].second);
    }
    draw_gradients(half, step);
    (step < 3 ? begun : resumed).step(step, 6);
  }
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_TRUE(half[i].value.equal(whole[i].value));
}

TEST(RandomBases, HasTheSameBitsForAnyThreadCount) {
  harness::expect_same_bits_for_any_thread_count([] {
    const auto parameters = parameters_of(1000);
    RandomBases rule(with({.directions = 50, .compartments = Compartments::per_tensor}), parameters, 3);
    draw_gradients(parameters, 0);
    rule.step(values_of(parameters), 1, 1);
    return copies_of(parameters);
  });
}

TEST(RandomBases, SeedsStepsAndCompartmentsHaveTheirOwnDirections) {
  const auto moved = [](uint64_t seed, int64_t steps, bool fixed) {
    const NamedParameter parameter{.name = "w", .value = torch::zeros({100}).requires_grad_()};
    RandomBases rule(with({.directions = 5, .fixed = fixed}), {parameter}, seed);
    parameter.value.mutable_grad() = torch::ones({100});
    for (int64_t step = 0; step < steps; ++step) {
      parameter.value.detach().zero_();
      rule.step({parameter.value}, 1, 1);
    }
    return parameter.value.detach().clone();
  };
  EXPECT_TRUE(moved(0, 1, false).equal(moved(0, 1, true)));
  EXPECT_TRUE(moved(0, 1, true).equal(moved(0, 2, true)));
  EXPECT_FALSE(moved(0, 1, false).equal(moved(0, 2, false)));
  EXPECT_FALSE(moved(0, 1, false).equal(moved(1, 1, false)));
}

TEST(RandomBases, RefusesWhatItCannotDo) {
  const auto message = [](const std::string& text) -> std::string {
    DenseOptimizerOptions options;
    try {
      Config::from_text(text).read(options);
      options.check();
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      return error.what();
    }
  };
  EXPECT_EQ(message("kind = \"random_bases\"\nbases.directions = 3\nbases.values = \"signs\""), "");
  EXPECT_THAT(message("bases.directions = 3"), HasSubstr("only where optimizer.kind is \"random_bases\""));
  EXPECT_THAT(message("kind = \"random_bases\"\nbases.distance = 3"), HasSubstr("bases.from is \"losses\""));
  EXPECT_THAT(message("kind = \"random_bases\"\nbases.from = \"losses\"\nclip_norm = 0"),
              HasSubstr("optimizer.clip_norm must be 0 where optimizer.bases.from is \"losses\", got 0.1 and 0"));
  EXPECT_THAT(message("kind = \"random_bases\"\nbases.directions = 0"), HasSubstr("directions"));
  const NamedParameter small{.name = "w", .value = torch::zeros({3}).requires_grad_()};
  expect_error(ExitCode::usage,
               "random_bases: directions must be from 1 (the compartments) to 3 (the weights), got 250",
               [&] { OptimizerSet({small}, with({}), {}, 0); });
  expect_error(ExitCode::usage, "a rule of losses must have neither tables nor other ranks", [&] {
    OptimizerSet({small}, with({.directions = 2, .from = CoefficientsFrom::losses}), {}, 0,
                 [](const std::vector<Tensor>&) {});
  });
}

}  // namespace
}  // namespace loci
