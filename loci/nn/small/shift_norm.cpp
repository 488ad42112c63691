// Legend: T rows, O features.
#include "loci/nn/small/shift_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "loci/ops/nearest_power/nearest_power.h"

namespace loci {

using at::Tensor;

namespace {

// AP2(1 / sqrt(variance + epsilon)), with the bits of float64 where they decide between two powers.
Tensor shift_of(const Tensor& variance) {
  return nearest_power((variance.to(at::kDouble) + kNormEpsilon).sqrt().reciprocal());
}

void move_statistic(const Tensor& running, const Tensor& of_batch) {
  running.mul_(1 - kNormMomentum).add_(of_batch.detach().view_as(running), kNormMomentum);
}

}  // namespace

Tensor shift_normalised(const Tensor& x, const NormTensors& norm, bool training) {
  TORCH_CHECK(x.dim() == 2 && x.size(1) == norm.running_mean.numel() && x.is_floating_point(),
              "shift_normalised: x must be [T, ", norm.running_mean.numel(), "] of a floating type, got ", x.sizes(),
              " of ", x.scalar_type());
  const auto type = exact_type_of(x);
  const auto features = [&](const Tensor& tensor) { return tensor.to(type).view(-1); };
  Tensor mean = features(norm.running_mean), variance = features(norm.running_variance);
  const Tensor values = x.to(type);
  if (training) {
    TORCH_CHECK(x.size(0) > 0, "shift_normalised: training must have at least 1 row, got 0");
    mean = values.mean(0);
    const Tensor c = values - mean;
    variance = (c * nearest_power(c)).mean(0);
    const at::NoGradGuard no_grad;
    move_statistic(norm.running_mean, mean);
    move_statistic(norm.running_variance, variance);
  }
  const Tensor factor = shift_of(variance).to(type) * nearest_power(features(norm.gain));
  return (values - mean) * factor + features(norm.bias);
}

NormLine line_of_shift_norm(const NormTensors& norm) {
  const auto flat = [](const Tensor& tensor) { return tensor.detach().to(at::kFloat).contiguous().view(-1); };
  const Tensor factor = shift_of(flat(norm.running_variance)).to(at::kFloat) * nearest_power(flat(norm.gain));
  return {flat(norm.running_mean), factor, flat(norm.bias)};
}

}  // namespace loci
