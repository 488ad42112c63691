// Legend: B samples, h a step, r the error ratio of a step.
#include "loci/nn/small/ode_solver.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/maximum.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

using at::Tensor;

OdeState slopes_of(const OdeField& field, double s, const OdeState& z, OdeCount& count) {
  OdeState slope = field(s, z);
  ++count.evaluations;
  TORCH_CHECK(slope.size() == z.size(), "ode: the field must give ", z.size(), " slopes, got ", slope.size());
  for (size_t part = 0; part < z.size(); ++part) {
    TORCH_CHECK(slope[part].sizes() == z[part].sizes(), "ode: the field must give slopes of the state's shape ",
                z[part].sizes(), ", got ", slope[part].sizes());
    if (slope[part].scalar_type() != z[part].scalar_type()) slope[part] = slope[part].to(z[part].scalar_type());
  }
  return slope;
}

// base + h sum of weight k; an undefined base is 0, and so is the sum of no weights.
Tensor weighted_sum(const Tensor& base, const std::vector<OdeState>& k, size_t part, const std::vector<double>& weight,
                    double h) {
  Tensor sum = base;
  const bool in_place = !at::GradMode::is_enabled();
  bool own = false;
  for (size_t i = 0; i < weight.size(); ++i) {
    if (weight[i] == 0) continue;
    if (!sum.defined()) {
      sum = k[i][part] * (h * weight[i]);
    } else if (own && in_place) {
      sum.add_(k[i][part], h * weight[i]);
      continue;
    } else {
      sum = at::add(sum, k[i][part], h * weight[i]);
    }
    own = true;
  }
  return sum;
}

OdeState moved(const OdeState& z, const std::vector<OdeState>& k, const std::vector<double>& weight, double h) {
  OdeState result;
  for (size_t part = 0; part < z.size(); ++part) result.push_back(weighted_sum(z[part], k, part, weight, h));
  return result;
}

// The slopes of all stages, of which the first may be known, and the state after the step.
struct Stages {
  std::vector<OdeState> k;
  OdeState after;
};

Stages stages_of(const OdeField& field, const OdeStep& step, const OdeTableau& method, OdeState first,
                 OdeCount& count) {
  Stages stages;
  if (first.empty()) first = slopes_of(field, step.s, step.z, count);
  stages.k.push_back(std::move(first));
  const size_t n = method.c.size();
  for (size_t i = 1; i < n; ++i) {
    OdeState z = moved(step.z, stages.k, method.a[i], step.h);
    stages.k.push_back(slopes_of(field, step.s + method.c[i] * step.h, z, count));
    // The last stage of a pair stands at the step's end.
    if (method.estimates() && i + 1 == n) stages.after = std::move(z);
  }
  if (!method.estimates()) stages.after = moved(step.z, stages.k, method.b, step.h);
  return stages;
}

// Root mean squares of x / scale, of the batch or the largest of the samples'.
double root_mean_square(const Tensor& x, const Tensor& scale, OdeControl control) {
  if (x.numel() == 0) return 0;
  const Tensor square = (x / scale).square();
  if (control == OdeControl::batch || square.dim() == 0) return std::sqrt(square.mean().item<double>());
  return std::sqrt(square.reshape({square.size(0), -1}).mean(1).max().item<double>());
}

// max() of NaN is the other number; here NaN wins.
double worse(double a, double b) {
  return std::isnan(a) || std::isnan(b) ? std::numeric_limits<double>::quiet_NaN() : std::max(a, b);
}

class StepControl {
 public:
  StepControl(const OdeOptions& options, const OdeTableau& method, size_t controlled)
      : options_(options), method_(method), controlled_(controlled) {}

  double error_ratio(const OdeStep& step, const Stages& stages) const {
    double ratio = 0;
    for (size_t part = 0; part < controlled_; ++part) {
      const Tensor error = weighted_sum({}, stages.k, part, method_.error, step.h);
      const Tensor scale =
          at::maximum(step.z[part].abs(), stages.after[part].abs()).mul_(options_.rtol).add_(options_.atol);
      ratio = worse(ratio, root_mean_square(error, scale, options_.control));
    }
    return ratio;
  }

  double factor(double ratio) const {
    if (!std::isfinite(ratio)) return kLeastFactor;
    return ratio == 0 ? kMostFactor
                      : std::clamp(kSafety * std::pow(ratio, -1.0 / method_.order), kLeastFactor, kMostFactor);
  }

  // The size of a first step; `slope` is that of z at s.
  double first_step(const OdeField& field, const OdeStep& start, const OdeState& slope, double length,
                    OdeCount& count) const {
    if (options_.first_step > 0) return std::min(options_.first_step, length);
    const double size = norm(start.z, start.z), speed = norm(slope, start.z);
    const double guess = std::min(length, size < 1e-5 || speed < 1e-5 ? 1e-6 : 0.01 * size / speed);
    const double direction = start.h > 0 ? 1 : -1;
    const OdeState z = moved(start.z, {slope}, {1}, direction * guess);
    const OdeState next = slopes_of(field, start.s + direction * guess, z, count);
    OdeState bend;
    for (size_t part = 0; part < next.size(); ++part) bend.push_back(next[part] - slope[part]);
    const double most = worse(speed, norm(bend, start.z) / guess);
    if (!std::isfinite(most)) return guess;
    const double by_bend = most <= 1e-15 ? std::max(1e-6, guess * 1e-3) : std::pow(0.01 / most, 1.0 / method_.order);
    return std::min({100 * guess, by_bend, length});
  }

  bool finite(const OdeState& slope) const {
    return std::all_of(slope.begin(), slope.end(), [](const Tensor& k) { return k.isfinite().all().item<bool>(); });
  }

 private:
  static constexpr double kSafety = 0.9, kLeastFactor = 0.2, kMostFactor = 10;

  double norm(const OdeState& x, const OdeState& z) const {
    double largest = 0;
    for (size_t part = 0; part < controlled_; ++part) {
      const Tensor scale = z[part].abs().mul_(options_.rtol).add_(options_.atol);
      largest = worse(largest, root_mean_square(x[part], scale, options_.control));
    }
    return largest;
  }

  const OdeOptions& options_;
  const OdeTableau& method_;
  size_t controlled_;
};

[[noreturn]] void refuse_numbers(double s) {
  fail(ExitCode::numbers, "ode", "the field must give finite numbers", fmt::format("NaN or infinity at s = {:.6g}", s));
}

OdeState integrate_controlled(const OdeField& field, OdeState z, double from, double to, const OdeOptions& options,
                              OdeCount& count, const std::function<void(const OdeStep&)>& watch, size_t controlled) {
  const OdeTableau& method = ode_tableau(options.method);
  const StepControl control(options, method, controlled);
  const double direction = to > from ? 1 : -1;
  OdeState first = slopes_of(field, from, z, count);
  double h = 0;
  {
    const at::NoGradGuard guard;
    if (!control.finite(first)) refuse_numbers(from);
    h = control.first_step(field, {from, direction, z}, first, std::abs(to - from), count);
  }
  const double digits = z[0].scalar_type() == at::kDouble ? 0x1p-52 : 0x1p-23;
  const double least = 4 * digits * std::max(std::abs(from), std::abs(to));
  double s = from;
  int64_t tried = 0;
  for (bool last = false; !last;) {
    if (tried++ == options.max_steps) {
      fail(ExitCode::numbers, "ode", fmt::format("the solution must take at most {} steps", options.max_steps),
           fmt::format("s = {:.6g} of {:.6g} after so many, with a step of {:.3g}", s, to, h));
    }
    const double left = std::abs(to - s);
    last = h >= 0.999 * left;  // no sliver of a step is left behind
    const OdeStep step = {s, direction * (last ? left : h), z};
    Stages stages = stages_of(field, step, method, first, count);
    double ratio = 0;
    {
      const at::NoGradGuard guard;
      ratio = control.error_ratio(step, stages);
    }
    const bool good = ratio <= 1;  // false for NaN
    h = std::abs(step.h) * control.factor(ratio);
    if (good) {
      if (watch) watch(step);
      s = last ? to : s + step.h;
      z = std::move(stages.after);
      first = std::move(stages.k.back());
      ++count.taken;
      continue;
    }
    last = false;
    ++count.refused;
    if (h >= least) continue;
    if (!std::isfinite(ratio)) refuse_numbers(s);
    fail(ExitCode::numbers, "ode", fmt::format("the step must stay above {:.3g}", least),
         fmt::format("{:.3g} at s = {:.6g} with an error ratio of {:.3g}", h, s, ratio));
  }
  return z;
}

}  // namespace

void OdeOptions::fields(ConfigFields& f) {
  f.choice<OdeMethod>("method", method, "euler, midpoint and rk4 have fixed steps; dopri5 and tsit5 choose theirs",
                      {{"euler", OdeMethod::euler},
                       {"midpoint", OdeMethod::midpoint},
                       {"rk4", OdeMethod::rk4},
                       {"dopri5", OdeMethod::dopri5},
                       {"tsit5", OdeMethod::tsit5}});
  const bool pair = ode_tableau(method).estimates();
  f.when(!pair, "model.solver.method has fixed steps",
         [&] { f.field("steps", steps, "steps over the whole depth", {.minimum = 1, .maximum = 1000000}); });
  f.when(pair, "model.solver.method chooses its steps", [&] {
    f.field("rtol", rtol, "error of a step relative to the state", {.minimum = 0, .maximum = 1});
    f.field("atol", atol, "error of a step that is allowed in addition", {.minimum = 0, .maximum = 1e6});
    f.choice<OdeControl>("control", control, "what an error ratio is of: the batch, or its worst sample",
                         {{"batch", OdeControl::batch}, {"sample", OdeControl::sample}});
    f.field("first_step", first_step, "size of the first step; 0: chosen", {.minimum = 0});
    f.field("max_steps", max_steps, "steps of a solution at most", {.minimum = 1, .maximum = 1000000000});
  });
}

void OdeOptions::check() const {
  if (!ode_tableau(method).estimates()) {
    if (steps < 1) fail(ExitCode::usage, "ode", "steps must be at least 1", fmt::to_string(steps));
    return;
  }
  const bool good = rtol >= 0 && atol >= 0 && rtol + atol > 0 && first_step >= 0 && max_steps >= 1;
  if (good && std::isfinite(rtol + atol + first_step)) return;
  fail(ExitCode::usage, "ode",
       "rtol and atol must be numbers of at least 0, one of them above 0, first_step at least 0",
       fmt::format("{}, {} and {}", rtol, atol, first_step));
}

OdeCount& OdeCount::operator+=(const OdeCount& other) {
  evaluations += other.evaluations, taken += other.taken, refused += other.refused;
  return *this;
}

OdeState ode_step(const OdeField& field, const OdeStep& step, OdeMethod method, OdeCount& count) {
  const OdeTableau& tableau = ode_tableau(method);
  if (!tableau.estimates()) return stages_of(field, step, tableau, {}, count).after;
  // The last stage is for the estimate and for the next step.
  std::vector<OdeState> k = {slopes_of(field, step.s, step.z, count)};
  for (size_t i = 1; i + 1 < tableau.c.size(); ++i) {
    k.push_back(slopes_of(field, step.s + tableau.c[i] * step.h, moved(step.z, k, tableau.a[i], step.h), count));
  }
  return moved(step.z, k, tableau.a.back(), step.h);
}

OdeState ode_integrate(const OdeField& field, const OdeState& z, double from, double to, const OdeOptions& options,
                       OdeCount& count, const std::function<void(const OdeStep&)>& watch, int64_t controlled) {
  options.check();
  TORCH_CHECK(!z.empty() && std::isfinite(from) && std::isfinite(to),
              "ode: a state of one part or more and finite ends are expected, got ", z.size(), " parts from ", from,
              " to ", to);
  for (const Tensor& part : z) {
    TORCH_CHECK(part.is_floating_point(), "ode: the state must be of a floating type, got ", part.scalar_type());
  }
  if (from == to) return z;
  if (ode_tableau(options.method).estimates()) {
    const size_t parts = controlled < 0 ? z.size() : static_cast<size_t>(controlled);
    return integrate_controlled(field, z, from, to, options, count, watch, parts);
  }
  OdeStep step = {from, (to - from) / static_cast<double>(options.steps), z};
  for (int64_t i = 0; i < options.steps; ++i) {
    step.s = from + static_cast<double>(i) * step.h;
    if (watch) watch(step);
    step.z = ode_step(field, step, options.method, count);
    ++count.taken;
  }
  return step.z;
}

}  // namespace loci
