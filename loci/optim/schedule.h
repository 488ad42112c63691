// Learning-rate schedule: linear warm-up, then cosine decay to a share of the peak, or constant.
#pragma once

#include <cstdint>

#include "loci/base/config.h"

namespace loci {

struct ScheduleOptions {
  int64_t warmup = 50;           // steps
  std::string decay = "cosine";  // "cosine" | "constant"
  double final_share = 0.1;      // of the peak, at the last step
  void fields(ConfigFields& f);
};

// The factor of the peak rate at `step` (0 .. steps-1). Warm-up gives (step + 1) / warmup.
double schedule_factor(const ScheduleOptions& options, int64_t step, int64_t steps);

}  // namespace loci
