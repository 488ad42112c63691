// The CPU path of reels.h at a given level, for tests.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "loci/base/cpu_level.h"

namespace loci {

at::Tensor reel_values_cpu(const at::Tensor& like, c10::SymInt reels, int64_t seed, int64_t stream, double bound,
                           CpuLevel level);
std::tuple<at::Tensor, at::Tensor> reel_weights_cpu(const at::Tensor& scores, int64_t seed, int64_t stream,
                                                    double bound, int64_t draw, bool chosen_only, CpuLevel level);
at::Tensor reel_score_gradient_cpu(const at::Tensor& grad, const at::Tensor& choice, c10::SymInt reels, int64_t seed,
                                   int64_t stream, double bound, bool chosen_only, CpuLevel level);
void reel_step_cpu(const at::Tensor& scores, const std::optional<at::Tensor>& velocity, const at::Tensor& weight,
                   const at::Tensor& choice, const at::Tensor& grad, int64_t seed, int64_t stream, double bound,
                   double rate, double momentum, double decay, double divisor, bool nesterov, bool chosen_only,
                   bool choose, CpuLevel level);

}  // namespace loci
