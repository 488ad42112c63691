#include "loci/data/ram/curriculum.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "loci/base/check.h"

namespace loci {

Curriculum::Curriculum(const CurriculumOptions& options, const CurriculumState& state)
    : options_(options), state_(state) {
  const auto check = [](bool good, std::string_view expected, auto got) {
    if (!good) fail(ExitCode::usage, "curriculum", expected, fmt::to_string(got));
  };
  check(options.minimum >= 1, "minimum difficulty must be at least 1", options.minimum);
  check(options.maximum >= options.minimum, fmt::format("maximum difficulty must be at least {}", options.minimum),
        options.maximum);
  check(options.threshold > 0 && options.threshold <= 1, "threshold must be in (0, 1]", options.threshold);
  check(options.gap >= 0, "gap must be 0 or more updates", options.gap);
  if (state_.level == 0) state_.level = options.minimum;
  check(state_.level >= options.minimum && state_.level <= options.maximum,
        fmt::format("level must be {} .. {}", options.minimum, options.maximum), state_.level);
}

int64_t Curriculum::draw(RandomSequence& random) const {
  const double kind = random.uniform();
  const int64_t reach = state_.level + std::countr_zero(random.bits());
  const uint64_t bits = random.bits();
  const auto uniform = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(bits % static_cast<uint64_t>(high - low + 1));
  };
  int64_t difficulty = reach;
  if (kind < 0.10) {
    difficulty = uniform(options_.minimum, options_.maximum);
  } else if (kind < 0.35) {
    difficulty = uniform(1, reach);
  }
  return std::clamp(difficulty, options_.minimum, options_.maximum);
}

bool Curriculum::observe(int64_t difficulty, double error) {
  ++state_.updates_since_rise;
  if (difficulty < state_.level) return false;
  if (!std::isfinite(error)) fail(ExitCode::numbers, "curriculum", "error must be finite", fmt::to_string(error));
  state_.error = 0.9 * state_.error + 0.1 * error;
  const bool rise =
      state_.level < options_.maximum && state_.error < options_.threshold && state_.updates_since_rise >= options_.gap;
  if (rise) state_ = {.level = state_.level + 1, .updates_since_rise = 0, .error = 1};
  return rise;
}

}  // namespace loci
