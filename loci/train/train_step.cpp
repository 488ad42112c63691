#include "loci/train/train_step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <csignal>

#include "loci/base/stop_signal.h"
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

// What all ranks have to know of each other beside their gradients.
at::Tensor numbers_of(double loss) {
  const int signal = StopSignal::received();
  return at::tensor({loss, signal == SIGINT ? 1.0 : 0.0, signal == SIGTERM ? 1.0 : 0.0}, at::kDouble);
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
    const auto value = loss.item<double>();
    result.loss += value / static_cast<double>(accumulation);
    if (!std::isfinite(value) && ranks.size == 1) {  // several ranks go on and skip the update together
      optimizers.zero_gradients();
      return result;
    }
    if (loss.requires_grad() && !optimizers.by_losses()) loss.backward();
  }
  if (optimizers.by_losses()) {
    optimizers.set_loss([&] { return batch_loss(task, step, accumulation, bfloat16); });
  }
  const at::Tensor numbers = numbers_of(result.loss);
  if (ranks.size > 1) optimizers.sum_beside(numbers);
  const StepReport report = task.update(step, steps, optimizers, static_cast<double>(accumulation * ranks.size));
  result.rate = report.rate;
  result.good = !report.skipped;
  const auto* const sum = numbers.const_data_ptr<double>();
  result.loss = sum[0] / static_cast<double>(ranks.size);
  result.signal = sum[2] > 0 ? SIGTERM : sum[1] > 0 ? SIGINT : 0;
  return result;
}

}  // namespace loci
