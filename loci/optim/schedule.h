// Schedules of the learning rate by name, each after a linear warm-up. The factor of the peak rate at step s of a run
// of S steps, with w = warmup:
//
//   s < w            (s + 1) / w
//   constant         1
//   cosine           f + (1 - f) (1 + cos(pi min(1, (s - w) / (S - 1 - w)))) / 2,   f = final_share; f where S - 1 <= w
//   step             factor^floor(s / every)
//   multi_step       factor^n,   n = how many of `at` are at most s
//   linear           min(1, (S - s) / (fall S))
//   warm_restarts    f + (1 - f) (1 + cos(pi t / T)) / 2,   where rounds of T_0 = period, T_(i+1) = growth * T_i steps
//                    follow each other from step w on and t is the step within its round
//                    (Loshchilov and Hutter, ICLR 2017, arXiv 1608.03983, equation 5)
//
// `every` and `at` count from the beginning of the run, as papers give them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"

namespace loci {

enum class ScheduleKind { constant, cosine, linear, step, multi_step, warm_restarts };

// [optimizer.schedule]
struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::cosine;
  int64_t warmup = 50;           // steps
  double final_share = 0.1;      // cosine, warm_restarts: of the peak, where a cosine ends
  double fall = 0.3;             // linear: share of the run, its last, over which the rate falls to 0
  double factor = 0.1;           // step, multi_step: of the rate, at each fall
  int64_t every = 1000;          // step: steps between two falls
  std::vector<int64_t> at = {};  // multi_step: steps of the falls, ascending
  int64_t period = 1000;         // warm_restarts: steps of the first round
  int64_t growth = 1;            // warm_restarts: length of a round by that of the one before
  void fields(ConfigFields& f);
  void check() const;  // throws Error (usage)
};

// 0 <= step; `steps` is the length of the run.
double schedule_factor(const ScheduleOptions& options, int64_t step, int64_t steps);

}  // namespace loci
