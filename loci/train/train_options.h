// How a run trains: length, batches, precision, what is written when.
#pragma once

#include <cstdint>
#include <string>

#include "loci/base/config_fields.h"

namespace loci {

// What happens when the loss or a gradient is not finite.
enum class NanPolicy {
  stop,  // exit status 5; the last checkpoint stays
  skip,  // the step changes nothing; after most_skips in a row as above
};

// [train]
struct TrainOptions {
  std::string unit = "units";      // what the task counts (TaskPlan::unit()), which is the key of `units`
  int64_t steps = 0;               // 0: as many as `units` ask for
  int64_t units = 1'000'000;       // to train on
  int64_t batch = 16;              // windows (or images) a step
  int64_t accumulation = 1;        // micro-batches that a step's batch is cut into
  std::string precision = "auto";  // "float32" | "bfloat16" | "auto": bfloat16 where the CPU multiplies it faster
  int64_t threads = 0;             // 0: all cores that the process may use
  int64_t log_every = 10;          // steps; 0: never, here and below
  int64_t evaluate_every = 0;      // and always after the last step
  int64_t checkpoint_every = 0;    // and always after the last step
  int64_t keep_last = 2;           // checkpoints
  NanPolicy nan_policy = NanPolicy::stop;
  int64_t most_skips = 10;
  void fields(ConfigFields& f);

  // Throws Error (usage) for options that do not fit each other.
  void check() const;
  int64_t steps_for(int64_t units_per_step) const;
};

// [start]: trained weights in place of drawn ones; one of the two.
struct StartOptions {
  std::string weights;       // a safetensors file, a run directory or one of its step-N folders
  std::string arm;           // of the same recipe: its finished run of the same seed
  bool continues = false;    // train.UNIT counts `units_before`, and the data go on behind them
  int64_t units_before = 0;  // that the weights were trained on; 0: what the arm was
  void fields(ConfigFields& f);

  // Throws Error (usage) unless one is given.
  void check() const;
  const std::string& source() const { return weights.empty() ? arm : weights; }
};

}  // namespace loci
