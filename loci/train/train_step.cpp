#include "loci/train/train_step.h"

#include <cmath>

#include "loci/train/precision.h"

namespace loci {

StepResult train_step(Task& task, OptimizerSet& optimizers, int64_t step, int64_t steps, int64_t accumulation,
                      bool bfloat16) {
  task.before_step(step, optimizers);
  StepResult result;
  for (int64_t micro = 0; micro < accumulation; ++micro) {
    at::Tensor loss;
    {
      const PrecisionGuard precision(bfloat16);
      loss = task.loss(step, micro);
    }
    const double value = loss.item<double>();
    result.loss += value / static_cast<double>(accumulation);
    if (!std::isfinite(value)) {
      optimizers.zero_gradients();
      return result;
    }
    if (loss.requires_grad()) loss.backward();
  }
  const StepReport report = task.update(step, steps, optimizers, static_cast<double>(accumulation));
  result.rate = report.rate;
  result.good = !report.skipped;
  return result;
}

}  // namespace loci
