#include "loci/train/train_step.h"

#include <ATen/core/grad_mode.h>

#include <cmath>

#include "loci/train/precision.h"

namespace loci {
namespace {

// The mean over the micro-batches, for the parameters as they are.
double batch_loss(Task& task, int64_t step, int64_t accumulation, bool bfloat16) {
  const at::NoGradGuard no_grad;
  const PrecisionGuard precision(bfloat16);
  double sum = 0;
  for (int64_t micro = 0; micro < accumulation; ++micro) sum += task.loss(step, micro).item<double>();
  return sum / static_cast<double>(accumulation);
}

}  // namespace

StepResult train_step(Task& task, OptimizerSet& optimizers, int64_t step, int64_t steps, int64_t accumulation,
                      bool bfloat16, const Ranks& ranks) {
  task.before_step(step, optimizers);
  StepResult result;
  for (int64_t micro = 0; micro < accumulation; ++micro) {
    at::Tensor loss;
    {
      const PrecisionGuard precision(bfloat16);
      loss = task.loss(step, micro);
    }
    const double value = mean_over(ranks, loss.item<double>());
    result.loss += value / static_cast<double>(accumulation);
    if (!std::isfinite(value)) {
      optimizers.zero_gradients();
      return result;
    }
    if (loss.requires_grad() && !optimizers.by_losses()) loss.backward();
  }
  if (optimizers.by_losses()) {
    optimizers.set_loss([&] { return batch_loss(task, step, accumulation, bfloat16); });
  }
  const StepReport report = task.update(step, steps, optimizers, static_cast<double>(accumulation * ranks.size));
  result.rate = report.rate;
  result.good = !report.skipped;
  return result;
}

}  // namespace loci
