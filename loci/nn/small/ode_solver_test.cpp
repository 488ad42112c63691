#include "loci/nn/small/ode_solver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "loci/base/check.h"

namespace loci {
namespace {

using torch::Tensor;
using Numbers = std::vector<double>;

const std::vector<std::pair<std::string, OdeMethod>> kMethods = {{"euler", OdeMethod::euler},
                                                                 {"midpoint", OdeMethod::midpoint},
                                                                 {"rk4", OdeMethod::rk4},
                                                                 {"dopri5", OdeMethod::dopri5},
                                                                 {"tsit5", OdeMethod::tsit5}};

Numbers product(const Numbers& x, const Numbers& y) {
  Numbers result;
  for (size_t i = 0; i < x.size(); ++i) result.push_back(x[i] * y[i]);
  return result;
}

// The sum over b of each rooted tree (Butcher 1963) and what it must be, by order: all of orders 1 to 5.
std::vector<std::vector<std::pair<double, double>>> order_conditions(const OdeTableau& t, const Numbers& b) {
  const auto A = [&](const Numbers& x) {
    Numbers result(t.c.size(), 0);
    for (size_t i = 0; i < t.c.size(); ++i) {
      for (size_t j = 0; j < t.a[i].size(); ++j) result[i] += t.a[i][j] * x[j];
    }
    return result;
  };
  const auto sum = [&](const Numbers& x) {
    double total = 0;
    for (size_t i = 0; i < b.size(); ++i) total += b[i] * x[i];
    return total;
  };
  const Numbers one(t.c.size(), 1), &c = t.c, c2 = product(c, c), c3 = product(c2, c), Ac = A(c), Ac2 = A(c2);
  return {{{sum(one), 1}},
          {{sum(c), 1.0 / 2}},
          {{sum(c2), 1.0 / 3}, {sum(Ac), 1.0 / 6}},
          {{sum(c3), 1.0 / 4}, {sum(product(c, Ac)), 1.0 / 8}, {sum(Ac2), 1.0 / 12}, {sum(A(Ac)), 1.0 / 24}},
          {{sum(product(c3, c)), 1.0 / 5},
           {sum(product(c2, Ac)), 1.0 / 10},
           {sum(product(Ac, Ac)), 1.0 / 20},
           {sum(product(c, Ac2)), 1.0 / 15},
           {sum(A(c3)), 1.0 / 20},
           {sum(product(c, A(Ac))), 1.0 / 30},
           {sum(A(product(c, Ac))), 1.0 / 40},
           {sum(A(Ac2)), 1.0 / 60},
           {sum(A(A(Ac))), 1.0 / 120}}};
}

double worst_condition(const OdeTableau& t, const Numbers& b, size_t order) {
  double worst = 0;
  const auto conditions = order_conditions(t, b);
  for (const auto& [sum, expected] : conditions[order - 1]) worst = std::max(worst, std::abs(sum - expected));
  return worst;
}

TEST(OdeSolver, TableausMeetTheConditionsOfTheirOrderAndNoMore) {
  for (const auto& [name, method] : kMethods) {
    SCOPED_TRACE(name);
    const OdeTableau& t = ode_tableau(method);
    for (size_t i = 0; i < t.c.size(); ++i) {
      double row = 0;
      for (const double a : t.a[i]) row += a;
      EXPECT_NEAR(row, t.c[i], 1e-14) << "row " << i;
    }
    for (int order = 1; order <= t.order; ++order) {
      EXPECT_LT(worst_condition(t, t.b, static_cast<size_t>(order)), 1e-14) << order;
    }
    if (t.order < 5) {
      EXPECT_GT(worst_condition(t, t.b, static_cast<size_t>(t.order + 1)), 1e-3);
    }
    if (!t.estimates()) continue;
    Numbers other;
    for (size_t i = 0; i < t.b.size(); ++i) other.push_back(t.b[i] - t.error[i]);
    for (size_t order = 1; order <= 4; ++order) EXPECT_LT(worst_condition(t, other, order), 1e-14) << order;
    EXPECT_GT(worst_condition(t, other, 5), 1e-5);
  }
}

Tensor double_tensor(const Numbers& x) {
  return torch::tensor(x, torch::kDouble);
}

// The error at `to` of so many equal steps.
double error_of(OdeMethod method, int64_t steps, double from, double to, const OdeField& field, double exact) {
  OdeCount count;
  OdeStep step = {from, (to - from) / static_cast<double>(steps), {double_tensor({1})}};
  for (int64_t i = 0; i < steps; ++i) {
    step.s = from + static_cast<double>(i) * step.h;
    step.z = ode_step(field, step, method, count);
  }
  return std::abs(step.z[0].item<double>() - exact);
}

TEST(OdeSolver, ErrorsFallWithTheOrderForwardAndBackward) {
  constexpr double a = -1.3;
  const OdeField linear = [](double, const OdeState& z) { return OdeState{z[0] * a}; };
  // Reads s too: z = 1 / (1 + s^2).
  const OdeField by_depth = [](double s, const OdeState& z) { return OdeState{z[0].square() * (-2 * s)}; };
  for (const auto& [name, method] : kMethods) {
    SCOPED_TRACE(name);
    const int order = ode_tableau(method).order;
    for (const double to : {1.5, -1.5}) {
      const auto slope = [&](const OdeField& field, double exact) {
        return std::log2(error_of(method, 40, 0, to, field, exact) / error_of(method, 80, 0, to, field, exact));
      };
      EXPECT_NEAR(slope(linear, std::exp(a * to)), order, 0.3) << to;
      EXPECT_NEAR(slope(by_depth, 1 / (1 + to * to)), order, 0.3) << to;
    }
  }
}

TEST(OdeSolver, FixedStepsAreThoseOfOdeStepAndCountTheirEvaluations) {
  const OdeField field = [](double s, const OdeState& z) { return OdeState{z[0].sin() * s, z[0].sum(1)}; };
  const OdeState start = {torch::randn({3, 2}), torch::zeros({3})};
  for (const auto& [name, method] : kMethods) {
    if (ode_tableau(method).estimates()) continue;
    OdeOptions options;
    options.method = method;
    options.steps = 4;
    OdeCount count, twin_count;
    const OdeState got = ode_integrate(field, start, 2, -1, options, count);
    OdeStep step = {2, -0.75, start};
    for (int64_t i = 0; i < 4; ++i) {
      step.s = 2 - 0.75 * static_cast<double>(i);
      step.z = ode_step(field, step, method, twin_count);
    }
    EXPECT_TRUE(got[0].equal(step.z[0]) && got[1].equal(step.z[1])) << name;
    EXPECT_EQ(count.evaluations, 4 * std::ssize(ode_tableau(method).c)) << name;
    EXPECT_EQ(count.taken, 4);
  }
}

// The pair and its control on samples that are numbers, in loops.
struct TwinStep {
  double s, h;
};
std::vector<TwinStep> twin_steps(const OdeTableau& t, const std::function<double(double, double)>& f, Numbers z,
                                 double to, const OdeOptions& options, int64_t& refused) {
  double s = 0, h = options.first_step;
  std::vector<TwinStep> steps;
  while (s < to) {
    const bool last = h >= 0.999 * (to - s);
    const double size = last ? to - s : h;
    Numbers after, squares;
    for (const double z0 : z) {
      Numbers k;
      double at = z0;
      for (size_t i = 0; i < t.c.size(); ++i) {
        at = z0;
        for (size_t j = 0; j < i; ++j) at += size * t.a[i][j] * k[j];
        k.push_back(f(s + t.c[i] * size, at));
      }
      double error = 0;
      for (size_t i = 0; i < k.size(); ++i) error += size * t.error[i] * k[i];
      after.push_back(at);
      const double scaled = error / (options.atol + options.rtol * std::max(std::abs(z0), std::abs(at)));
      squares.push_back(scaled * scaled);
    }
    double ratio = 0;
    for (const double square : squares) {
      ratio = options.control == OdeControl::sample ? std::max(ratio, square)
                                                    : ratio + square / static_cast<double>(squares.size());
    }
    ratio = std::sqrt(ratio);
    h = size * std::min(10.0, std::max(0.2, 0.9 * std::pow(ratio, -0.2)));
    if (ratio > 1) {
      ++refused;
      continue;
    }
    steps.push_back({s, size});
    s = last ? to : s + size;
    z = after;
  }
  return steps;
}

TEST(OdeSolver, PairsTakeTheStepsOfTheirTwin) {
  // A bend at 1 that refuses steps.
  const auto f = [](double s, double z) { return -z * (1 + 20 * std::exp(-40 * (s - 1) * (s - 1))) + std::sin(3 * s); };
  const OdeField field = [&](double s, const OdeState& z) {
    return OdeState{-z[0] * (1 + 20 * std::exp(-40 * (s - 1) * (s - 1))) + std::sin(3 * s)};
  };
  const Numbers start = {1, -0.3, 40};
  for (const auto& [name, method] : kMethods) {
    if (!ode_tableau(method).estimates()) continue;
    for (const OdeControl control : {OdeControl::batch, OdeControl::sample}) {
      SCOPED_TRACE(name + (control == OdeControl::batch ? " batch" : " sample"));
      OdeOptions options;
      options.method = method;
      options.control = control;
      options.first_step = 0.5;
      options.rtol = 1e-5;
      options.atol = 1e-7;
      int64_t refused = 0;
      const std::vector<TwinStep> expected = twin_steps(ode_tableau(method), f, start, 2, options, refused);
      std::vector<TwinStep> got;
      OdeCount count;
      ode_integrate(field, {double_tensor(start).unsqueeze(1)}, 0, 2, options, count,
                    [&](const OdeStep& step) { got.push_back({step.s, step.h}); });
      ASSERT_EQ(got.size(), expected.size());
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_NEAR(got[i].s, expected[i].s, 1e-7);
        EXPECT_NEAR(got[i].h, expected[i].h, 1e-7);
      }
      EXPECT_GT(refused, 0);
      EXPECT_EQ(count.refused, refused);
      EXPECT_EQ(count.taken, std::ssize(expected));
      EXPECT_EQ(count.evaluations, 1 + 6 * (count.taken + count.refused));
    }
  }
}

TEST(OdeSolver, TolerancesBoundTheErrorAndStepsGrowAsTheFifthRoot) {
  const OdeField field = [](double s, const OdeState& z) { return OdeState{z[0] * std::cos(s)}; };
  for (const OdeMethod method : {OdeMethod::dopri5, OdeMethod::tsit5}) {
    Numbers steps;
    for (const double tolerance : {1e-4, 1e-9}) {
      for (const double to : {3.0, -3.0}) {
        OdeOptions options;
        options.method = method;
        options.rtol = options.atol = tolerance;
        OdeCount count;
        const OdeState end = ode_integrate(field, {double_tensor({1, 2})}, 0, to, options, count);
        EXPECT_LT((end[0] - double_tensor({1, 2}) * std::exp(std::sin(to))).abs().max().item<double>(), 20 * tolerance);
        EXPECT_EQ(count.evaluations, 2 + 6 * (count.taken + count.refused));
        if (to > 0) steps.push_back(static_cast<double>(count.taken));
      }
    }
    EXPECT_NEAR(std::log10(steps[1] / steps[0]), 1, 0.35);  // (1e-5)^(-1/5) = 10
  }
}

std::string message_of_solution(const OdeField& field, const Tensor& z, double to, const OdeOptions& options) {
  OdeCount count;
  try {
    ode_integrate(field, {z}, 0, to, options, count);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::numbers);
    return error.what();
  }
  return "no error";
}

TEST(OdeSolver, SaysWhereAStepUnderflowsAndThatNumbersAreNone) {
  OdeOptions options;
  options.method = OdeMethod::dopri5;
  const OdeField stiff = [](double s, const OdeState& z) { return OdeState{(z[0] - std::cos(s)) * -1e9}; };
  EXPECT_THAT(message_of_solution(stiff, torch::zeros({2, 1}), 1, options),
              testing::MatchesRegex("ode: the step must stay above 4.77e-07, got .* at s = 0 with an error ratio of "
                                    "[1-9].*"));
  for (const double nothing : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const OdeField broken = [=](double s, const OdeState& z) { return OdeState{z[0] * (s > 0.5 ? nothing : 1)}; };
    EXPECT_THAT(
        message_of_solution(broken, torch::ones({2, 1}), 1, options),
        testing::MatchesRegex("ode: the field must give finite numbers, got NaN or infinity at s = 0.(5|49).*"));
  }
  const OdeField never = [](double, const OdeState& z) { return OdeState{z[0] * std::nan("")}; };
  EXPECT_THAT(message_of_solution(never, torch::ones({2, 1}), 1, options), testing::HasSubstr("at s = 0"));
  // One sample of many, and one part of two.
  const Tensor one_of_many = torch::ones({5, 1});
  one_of_many[3][0] = std::nan("");
  options.control = OdeControl::sample;
  const OdeField growth = [](double, const OdeState& z) { return OdeState{z[0]}; };
  EXPECT_THAT(message_of_solution(growth, one_of_many, 1, options), testing::HasSubstr("finite numbers"));
  options.max_steps = 3;
  options.rtol = 1e-8, options.atol = 1e-9;
  EXPECT_THAT(message_of_solution(growth, torch::ones({1, 1}, torch::kDouble), 10, options),
              testing::HasSubstr("ode: the solution must take at most 3 steps, got s = "));
}

// A step that overflows is refused, and the solution goes on with smaller ones.
TEST(OdeSolver, AStepThatOverflowsIsMadeSmaller) {
  OdeOptions options;
  options.method = OdeMethod::tsit5;
  options.first_step = 1;
  const OdeField field = [](double, const OdeState& z) { return OdeState{-z[0].pow(9)}; };
  OdeCount count;
  const OdeState end = ode_integrate(field, {torch::tensor({3.0F})}, 0, 1, options, count);
  EXPECT_NEAR(end[0].item<double>(), std::pow(std::pow(3, -8) + 8, -0.125), 1e-3);
  EXPECT_GT(count.refused, 0);
}

TEST(OdeSolver, RefusesBadOptionsStatesAndFields) {
  OdeCount count;
  OdeOptions options;
  options.method = OdeMethod::dopri5;
  options.rtol = options.atol = 0;
  const OdeField good = [](double, const OdeState& z) { return z; };
  EXPECT_THROW(ode_integrate(good, {torch::ones({1})}, 0, 1, options, count), Error);
  const auto message = [&](const OdeField& field, const OdeState& z) -> std::string {
    try {
      ode_integrate(field, z, 0, 1, {}, count);
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  };
  EXPECT_THAT(message(good, {}), testing::HasSubstr("got 0 parts"));
  EXPECT_THAT(message(good, {torch::ones({2}, torch::kInt)}), testing::HasSubstr("of a floating type, got Int"));
  const OdeField wide = [](double, const OdeState& z) { return OdeState{torch::cat({z[0], z[0]})}; };
  EXPECT_THAT(message(wide, {torch::ones({2})}), testing::HasSubstr("the state's shape [2], got [4]"));
  const OdeField few = [](double, const OdeState&) { return OdeState{}; };
  EXPECT_THAT(message(few, {torch::ones({2})}), testing::HasSubstr("must give 1 slopes, got 0"));
}

}  // namespace
}  // namespace loci
