#include "loci/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

namespace loci {

void ScheduleOptions::fields(ConfigFields& f) {
  f.field("warmup", warmup, {.minimum = 0});
  f.choice("decay", decay, std::vector<std::string>{"cosine", "constant"});
  f.field("final_share", final_share, {.minimum = 0, .maximum = 1});
}

double schedule_factor(const ScheduleOptions& options, int64_t step, int64_t steps) {
  if (step < options.warmup) return static_cast<double>(step + 1) / static_cast<double>(options.warmup);
  if (options.decay == "constant") return 1;
  const int64_t length = steps - 1 - options.warmup;
  const double share = length <= 0 ? 1 : static_cast<double>(step - options.warmup) / static_cast<double>(length);
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * std::clamp(share, 0.0, 1.0)));
  return options.final_share + (1 - options.final_share) * cosine;
}

}  // namespace loci
