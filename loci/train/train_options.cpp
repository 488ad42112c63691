#include "loci/train/train_options.h"

#include <algorithm>

namespace loci {

void TrainOptions::fields(ConfigFields& f) {
  constexpr int64_t most = int64_t{1} << 40;
  f.field("steps", steps, {.minimum = 0, .maximum = most});
  f.field("tokens", tokens, {.minimum = 1});
  f.field("batch", batch, {.minimum = 1, .maximum = 1 << 20});
  f.field("accumulation", accumulation, {.minimum = 1, .maximum = 1 << 20});
  f.choice("precision", precision, {"float32", "bfloat16", "auto"});
  f.field("threads", threads, {.minimum = 0, .maximum = 4096});
  f.field("log_every", log_every, {.minimum = 0, .maximum = most});
  f.field("evaluate_every", evaluate_every, {.minimum = 0, .maximum = most});
  f.field("checkpoint_every", checkpoint_every, {.minimum = 0, .maximum = most});
  f.field("keep_last", keep_last, {.minimum = 1, .maximum = most});
  f.choice("nan_policy", nan_policy, {{"stop", NanPolicy::stop}, {"skip", NanPolicy::skip}});
  f.field("most_skips", most_skips, {.minimum = 1, .maximum = most});
}

void TrainOptions::check() const {
  if (batch % accumulation != 0) {
    fail(ExitCode::usage, "config", "train.batch must be a multiple of train.accumulation",
         fmt::format("{} and {}", batch, accumulation));
  }
}

int64_t TrainOptions::steps_for(int64_t units_per_step) const {
  if (steps > 0) return steps;
  return std::max<int64_t>(1, (tokens + units_per_step / 2) / units_per_step);
}

}  // namespace loci
