#include "loci/optim/schedule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>

#include "loci/base/check.h"

namespace loci {
namespace {

// From 1 at share 0 to final_share at share 1.
double cosine_factor(double final_share, double share) {
  return final_share + (1 - final_share) * 0.5 * (1 + std::cos(std::numbers::pi * share));
}

double restarts_factor(const ScheduleOptions& options, int64_t step) {
  int64_t length = options.period;
  if (options.growth == 1) {
    step %= length;
  } else {
    while (step >= length) {
      step -= length;
      if (__builtin_mul_overflow(length, options.growth, &length)) length = std::numeric_limits<int64_t>::max();
    }
  }
  return cosine_factor(options.final_share, static_cast<double>(step) / static_cast<double>(length));
}

}  // namespace

void ScheduleOptions::fields(ConfigFields& f) {
  constexpr int64_t most = int64_t{1} << 40;
  f.choice("kind", kind, "how the learning rate goes on after the warm-up",
           {{"constant", ScheduleKind::constant},
            {"cosine", ScheduleKind::cosine},
            {"linear", ScheduleKind::linear},
            {"step", ScheduleKind::step},
            {"multi_step", ScheduleKind::multi_step},
            {"warm_restarts", ScheduleKind::warm_restarts}});
  f.field("warmup", warmup, "steps over which the rate rises to its peak", {.minimum = 0, .maximum = most});
  const bool cosines = kind == ScheduleKind::cosine || kind == ScheduleKind::warm_restarts;
  f.when(cosines, "optimizer.schedule.kind is \"cosine\" or \"warm_restarts\"", [&] {
    f.field("final_share", final_share, "share of the peak where a cosine ends", {.minimum = 0, .maximum = 1});
  });
  f.when(kind == ScheduleKind::linear, "optimizer.schedule.kind is \"linear\"", [&] {
    f.field("fall", fall, "share of the run, its last, over which the rate falls to 0", {.minimum = 0, .maximum = 1});
  });
  const bool falls = kind == ScheduleKind::step || kind == ScheduleKind::multi_step;
  f.when(falls, "optimizer.schedule.kind is \"step\" or \"multi_step\"",
         [&] { f.field("factor", factor, "the rate is multiplied by it at each fall", {.minimum = 0, .maximum = 1}); });
  f.when(kind == ScheduleKind::step, "optimizer.schedule.kind is \"step\"",
         [&] { f.field("every", every, "steps between two falls", {.minimum = 1, .maximum = most}); });
  f.when(kind == ScheduleKind::multi_step, "optimizer.schedule.kind is \"multi_step\"",
         [&] { f.field("at", at, "steps at which the rate falls, ascending", {.minimum = 1, .maximum = most}); });
  f.when(kind == ScheduleKind::warm_restarts, "optimizer.schedule.kind is \"warm_restarts\"", [&] {
    f.field("period", period, "steps of the first round", {.minimum = 1, .maximum = most});
    f.field("growth", growth, "length of a round as a multiple of the one before", {.minimum = 1, .maximum = 1000});
  });
}

void ScheduleOptions::check() const {
  if (kind != ScheduleKind::multi_step) return;
  const bool ascending = std::adjacent_find(at.begin(), at.end(), std::greater_equal<>()) == at.end();
  if (at.empty() || !ascending) {
    fail(ExitCode::usage, "config", "optimizer.schedule.at must be ascending steps",
         fmt::format("[{}]", fmt::join(at, ", ")));
  }
}

double schedule_factor(const ScheduleOptions& options, int64_t step, int64_t steps) {
  if (step < options.warmup) return static_cast<double>(step + 1) / static_cast<double>(options.warmup);
  switch (options.kind) {
    case ScheduleKind::constant:
      return 1;
    case ScheduleKind::cosine: {
      const int64_t length = steps - 1 - options.warmup;
      const double share = length <= 0 ? 1 : static_cast<double>(step - options.warmup) / static_cast<double>(length);
      return cosine_factor(options.final_share, std::min(share, 1.0));
    }
    case ScheduleKind::linear: {
      const auto left = static_cast<double>(steps - step), falling = options.fall * static_cast<double>(steps);
      return left < falling ? std::max(0.0, left / falling) : 1;
    }
    case ScheduleKind::step:
      return std::pow(options.factor, static_cast<double>(step / options.every));
    case ScheduleKind::multi_step: {
      const auto falls = std::count_if(options.at.begin(), options.at.end(), [&](int64_t at) { return at <= step; });
      return std::pow(options.factor, static_cast<double>(falls));
    }
    case ScheduleKind::warm_restarts:
      return restarts_factor(options, step - options.warmup);
  }
  fail(ExitCode::bug, "schedule", "kind must be a known one", fmt::to_string(static_cast<int>(options.kind)));
}

}  // namespace loci
