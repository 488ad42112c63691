#include "loci/optim/shift_adamax.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/maximum.h>

#include <cmath>
#include <limits>

#include "loci/ops/nearest_power/nearest_power.h"

namespace loci {

using at::Tensor;

ShiftAdamax::ShiftAdamax(const DenseOptimizerOptions& options, const std::vector<NamedParameter>& parameters)
    : share1_(nearest_power(1 - options.beta1)),
      share2_(nearest_power(1 - options.beta2)),
      states_(parameters, options, 2) {}

void ShiftAdamax::step(const std::vector<Tensor>& parameters, double rate, double divisor) {
  const at::NoGradGuard no_grad;
  for (const Tensor& parameter : parameters) update(parameter, rate, divisor);
}

void ShiftAdamax::update(const Tensor& parameter, double rate, double divisor) {
  ParameterStates::Entry& entry = states_.of(parameter);
  const Tensor value = parameter.detach();
  const Tensor gradient = ParameterStates::gradient_of(parameter).div(divisor);
  Tensor &moment = entry.moments[0], &largest = entry.moments[1];
  const double own_rate = rate * entry.rate;
  if (entry.decay != 0) value.mul_(1 - own_rate * entry.decay);
  moment.add_(gradient - moment, share1_);
  largest.mul_(1 - share2_).copy_(at::maximum(largest, gradient.abs()));
  const double count = entry.count.add_(1).item<double>();
  const double shift = nearest_power(own_rate / (1 - std::pow(1 - share1_, count)));
  // Where no gradient came yet, both moments are 0.
  const Tensor divider = nearest_power(largest).clamp_min_(std::numeric_limits<float>::min());
  value.sub_(moment / divider, shift);
}

std::vector<std::pair<std::string, Tensor>> ShiftAdamax::state() const {
  std::vector<std::pair<std::string, Tensor>> named;
  for (const ParameterStates::Entry& entry : states_.entries()) {
    named.emplace_back(entry.name + ".moment1", entry.moments[0]);
    named.emplace_back(entry.name + ".largest", entry.moments[1]);
    named.emplace_back(entry.name + ".count", entry.count);
  }
  return named;
}

void ShiftAdamax::clear(const Tensor& parameter) {
  states_.clear(parameter);
}

void ShiftAdamax::clear_rows(const Tensor& parameter, const Tensor& rows, const Tensor& like) {
  const auto& moments = states_.of(parameter).moments;
  reset_moment_rows(moments[0], rows);
  reset_moment_rows(moments[1], rows, like);
}

}  // namespace loci
