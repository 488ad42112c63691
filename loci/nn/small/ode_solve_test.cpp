#include "loci/nn/small/ode_solve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <vector>

#include "tests/op_harness.h"

namespace loci {
namespace {

using torch::Tensor;

// z' = tanh(z W^T + s v) and, as an integral loss, q' = mean of z^2 per sample.
struct Problem {
  explicit Problem(OdeMethod method) {
    torch::manual_seed(1);
    W = torch::randn({3, 3}, torch::kDouble).requires_grad_();
    v = torch::randn({3}, torch::kDouble).requires_grad_();
    unused = torch::ones({2}, torch::kDouble).requires_grad_();
    x = torch::randn({4, 3}, torch::kDouble).requires_grad_();
    options.method = method;
    options.steps = 7;
    options.first_step = 0.9;
    options.rtol = 1e-6, options.atol = 1e-8;
    counts = std::make_shared<OdeCounts>();
  }

  OdeState solve(const OdeGradientOptions& gradient, double from = -0.5, double to = 2) {
    const OdeField field = [W = W, v = v](double s, const OdeState& z) {
      return OdeState{torch::tanh(z[0].matmul(W.t()) + s * v), z[0].square().mean(1)};
    };
    return ode_solve(field, {x * 1, torch::zeros({4}, torch::kDouble)}, from, to, options, gradient, {W, v, unused},
                     counts);
  }

  std::vector<Tensor> gradients(const OdeGradientOptions& gradient, double from = -0.5, double to = 2) {
    const OdeState end = solve(gradient, from, to);
    const Tensor cotangent = torch::arange(12, torch::kDouble).sin().view({4, 3});
    return torch::autograd::grad({(end[0] * cotangent).sum() + 0.7 * end[1].sum()}, {x, W, v});
  }

  Tensor W, v, unused, x;
  OdeOptions options;
  std::shared_ptr<OdeCounts> counts;
};

double distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, (a[i] - b[i]).abs().max().item<double>());
  return most;
}

const std::vector<OdeMethod> kAll = {OdeMethod::euler, OdeMethod::midpoint, OdeMethod::rk4, OdeMethod::dopri5,
                                     OdeMethod::tsit5};

TEST(OdeSolve, CheckpointsHaveTheGradientOfTheSteps) {
  for (const OdeMethod method : kAll) {
    for (const double to : {2.0, -3.0}) {
      Problem problem(method);
      const auto expected = problem.gradients({OdeGradient::steps}, -0.5, to);
      for (const int64_t between : {1, 3, 100}) {
        *problem.counts = {};
        const auto got = problem.gradients({OdeGradient::checkpoints, between}, -0.5, to);
        EXPECT_LT(distance(got, expected), 1e-12) << static_cast<int>(method) << " " << between;
        EXPECT_EQ(
            problem.counts->backward.evaluations,
            problem.counts->forward.taken * (ode_tableau(method).estimates() ? 6 : std::ssize(ode_tableau(method).c)));
      }
    }
  }
}

TEST(OdeSolve, GradientsThroughTheStepsAreThoseOfDifferences) {
  Problem problem(OdeMethod::rk4);
  const auto end = [&](const std::vector<Tensor>& inputs) {
    const OdeField field = [W = inputs[1]](double, const OdeState& z) { return OdeState{torch::tanh(z[0].matmul(W))}; };
    return ode_solve(field, {inputs[0]}, 0, 1, problem.options, {OdeGradient::checkpoints}, {inputs[1]})[0];
  };
  harness::expect_finite_differences(end, {problem.x, problem.W});
}

TEST(OdeSolve, TheAdjointComesNearerWithTheOrderOfTheMethod) {
  for (const auto& [method, order] : std::vector<std::pair<OdeMethod, double>>{
           {OdeMethod::euler, 1}, {OdeMethod::midpoint, 2}, {OdeMethod::rk4, 4}}) {
    std::vector<double> apart;
    for (const int64_t steps : {40, 80}) {
      Problem problem(method);
      problem.options.steps = steps;
      apart.push_back(distance(problem.gradients({OdeGradient::adjoint}), problem.gradients({OdeGradient::steps})));
    }
    EXPECT_NEAR(std::log2(apart[0] / apart[1]), order, 0.3) << apart[0];
  }
}

TEST(OdeSolve, TheAdjointOfPairsIsAsNearAsTheirTolerance) {
  for (const OdeMethod method : {OdeMethod::dopri5, OdeMethod::tsit5}) {
    Problem problem(method);
    problem.options.rtol = 1e-9, problem.options.atol = 1e-10;
    const auto expected = problem.gradients({OdeGradient::steps});
    *problem.counts = {};
    EXPECT_LT(distance(problem.gradients({OdeGradient::adjoint}), expected), 1e-6);
    EXPECT_GT(problem.counts->backward.evaluations, 50);
    EXPECT_EQ(problem.counts->backward.evaluations,
              1 + 6 * (problem.counts->backward.taken + problem.counts->backward.refused));
  }
}

// z' = a z: dz/da = s z, and of the integral of z, (exp(a S) - 1) / a.
TEST(OdeSolve, GradientsOfAnExactSolution) {
  for (const OdeGradient kind : {OdeGradient::steps, OdeGradient::adjoint, OdeGradient::checkpoints}) {
    const Tensor a = torch::tensor(-0.8, torch::kDouble).requires_grad_();
    const Tensor x = torch::tensor({1.5}, torch::kDouble).requires_grad_();
    OdeOptions options;
    options.method = OdeMethod::dopri5;
    options.rtol = options.atol = 1e-11;
    const OdeField field = [a](double, const OdeState& z) { return OdeState{z[0] * a, z[0]}; };
    const OdeState end = ode_solve(field, {x, torch::zeros({1}, torch::kDouble)}, 0, 2, options, {kind}, {a});
    const double e = std::exp(-1.6);
    EXPECT_NEAR(end[1].item<double>(), 1.5 * (e - 1) / -0.8, 1e-8);
    const auto of_end = torch::autograd::grad({end[0]}, {x, a}, {}, /*retain_graph=*/true);
    EXPECT_NEAR(of_end[0].item<double>(), e, 1e-8);
    EXPECT_NEAR(of_end[1].item<double>(), 1.5 * 2 * e, 1e-8);
    const auto of_loss = torch::autograd::grad({end[1]}, {x, a});
    EXPECT_NEAR(of_loss[0].item<double>(), (e - 1) / -0.8, 1e-8);
    EXPECT_NEAR(of_loss[1].item<double>(), 1.5 * (2 * e * -0.8 - (e - 1)) / 0.64, 1e-8);
  }
}

TEST(OdeSolve, BackwardOfAnotherFieldOrOfASecondDerivativeIsRefused) {
  for (const OdeGradient kind : {OdeGradient::adjoint, OdeGradient::checkpoints}) {
    Problem problem(OdeMethod::rk4);
    const OdeState end = problem.solve({kind});
    EXPECT_THAT(harness::message_of(
                    [&] { torch::autograd::grad({end[0].sum()}, {problem.W}, {}, true, /*create_graph=*/true); }),
                testing::HasSubstr("ode_solve: a second derivative needs the gradient through the steps"));
    const torch::NoGradGuard guard;
    problem.W.mul_(2);
    const torch::AutoGradMode grad(true);
    EXPECT_THAT(harness::message_of([&] { end[0].sum().backward(); }), testing::HasSubstr("inplace operation"));
  }
  // Through the steps there is one.
  Problem problem(OdeMethod::rk4);
  const Tensor first = torch::autograd::grad({problem.solve({OdeGradient::steps})[0].sum()}, {problem.x}, {}, true,
                                             /*create_graph=*/true)[0];
  EXPECT_TRUE(torch::autograd::grad({first.sum()}, {problem.W})[0].abs().max().item<double>() > 0);
}

// S comes from x, so a gradient to x that went on behind S would count it twice.
TEST(OdeSolve, InputsMayDependOnEachOther) {
  Problem problem(OdeMethod::rk4);
  problem.options.steps = 60;
  const OdeFieldOf field = [W = problem.W](double, const OdeState& z, const std::vector<Tensor>& inputs) {
    return OdeState{torch::tanh(z[0].matmul(W) + inputs[0]) * inputs[1]};
  };
  const auto gradients = [&](OdeGradient kind) {
    const Tensor S = problem.x.square().sum(1, true) * problem.v[0];
    const OdeState end = ode_solve(field, {problem.x, S}, {problem.x * 2}, 0, 1, problem.options, {kind}, {problem.W});
    return torch::autograd::grad({end[0].sin().sum()}, {problem.x, problem.W, problem.v});
  };
  const auto expected = gradients(OdeGradient::steps);
  EXPECT_LT(distance(gradients(OdeGradient::checkpoints), expected), 1e-11);
  EXPECT_LT(distance(gradients(OdeGradient::adjoint), expected), 1e-4);
  const OdeField plain = [](double, const OdeState& z) { return z; };
  EXPECT_THAT(harness::message_of([&] {
                ode_solve(plain, {problem.x}, 0, 1, problem.options, {OdeGradient::adjoint}, {problem.W * 2});
              }),
              testing::HasSubstr("ode_solve: theta must be leaves (others are inputs), got the result of Mul"));
}

TEST(OdeSolve, WithoutGradientsNothingIsKept) {
  Problem problem(OdeMethod::rk4);
  const torch::NoGradGuard guard;
  for (const OdeGradient kind : {OdeGradient::steps, OdeGradient::adjoint, OdeGradient::checkpoints}) {
    EXPECT_FALSE(problem.solve({kind})[0].requires_grad());
  }
}

}  // namespace
}  // namespace loci
