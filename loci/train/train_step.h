// One step of training of any task, as the trainer takes it.
#pragma once

#include <cstdint>

#include "loci/optim/optimizer_set.h"
#include "loci/train/task.h"

namespace loci {

struct StepResult {
  double loss = 0;    // mean over the micro-batches, and over the ranks
  double rate = 0;    // of the dense optimiser
  bool good = false;  // false: something was not finite, and nothing was updated
  int signal = 0;     // SIGINT or SIGTERM that any rank had before the update; SIGTERM where both came
};

// Step `step` of `steps`: the losses of `accumulation` micro-batches, backward, and the update. All ranks make it
// together; `optimizers` sums gradients over them.
StepResult train_step(Task& task, OptimizerSet& optimizers, int64_t step, int64_t steps, int64_t accumulation,
                      bool bfloat16, const Ranks& ranks = {});

}  // namespace loci
