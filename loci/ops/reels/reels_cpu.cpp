#include "loci/ops/reels/reels_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "loci/ops/operator.h"
#include "loci/ops/reels/reels_definition.h"
#include "loci/ops/reels/reels_kernel.h"

// Legend: K reels, N weights.

namespace loci {

using at::Tensor;
using c10::SymInt;

namespace {

// Weights whose scores and velocities stay in the nearest caches between a step and the next choice.
constexpr int64_t kWeightsTogether = 512;
constexpr int64_t kReelsGrain = 32768;  // values worth a thread

const ReelsKernel& kernel_for(CpuLevel level) {
  return at_level(level, base::reels_kernel, avx2::reels_kernel, avx512::reels_kernel);
}

ReelNumbers numbers_of(int64_t seed, int64_t stream, double bound) {
  return {static_cast<uint64_t>(seed), static_cast<uint64_t>(stream), static_cast<float>(bound)};
}

// Calls run(first weight, weights) for pieces of N.
template <class Run>
void over_weights(int64_t N, int64_t K, const Run& run) {
  const int64_t pieces = (N + kWeightsTogether - 1) / kWeightsTogether;
  at::parallel_for(0, pieces, std::max<int64_t>(1, kReelsGrain / (K * kWeightsTogether)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t piece = begin; piece < end; ++piece) {
                       const int64_t n = piece * kWeightsTogether;
                       run(n, std::min(kWeightsTogether, N - n));
                     }
                   });
}

Tensor planes_like(const Tensor& like, int64_t K) {
  std::vector<int64_t> sizes = like.sizes().vec();
  sizes.insert(sizes.begin(), K);
  return at::empty(sizes, like.options().dtype(at::kFloat));
}

}  // namespace

Tensor reel_values_cpu(const Tensor& like, SymInt reels, int64_t seed, int64_t stream, double bound, CpuLevel level) {
  check_reels("reel_values", reels);
  const int64_t K = reels.expect_int(), N = like.numel();
  Tensor values = planes_like(like, K);
  const ReelsKernel& kernel = kernel_for(level);
  float* const to = values.mutable_data_ptr<float>();
  over_weights(N, K, [&](int64_t n, int64_t count) {
    kernel.values(numbers_of(seed, stream, bound), nullptr, nullptr, K, N, n, count, to + n);
  });
  return values;
}

std::tuple<Tensor, Tensor> reel_weights_cpu(const Tensor& input, int64_t seed, int64_t stream, double bound,
                                            int64_t draw, bool chosen_only, CpuLevel level) {
  check_reel_scores("reel_weights", input);
  if (input.scalar_type() != at::kFloat) {
    return reel_weights_definition(input, seed, stream, bound, draw, chosen_only);
  }
  const Tensor scores = input.contiguous();
  const auto sizes = scores.sizes().slice(1);
  Tensor weight = at::empty(sizes, scores.options()), choice = at::empty(sizes, scores.options().dtype(at::kByte));
  const int64_t K = scores.size(0), N = weight.numel();
  const ReelsKernel& kernel = kernel_for(level);
  const float* const from = scores.const_data_ptr<float>();
  float* const to = weight.mutable_data_ptr<float>();
  uint8_t* const chosen = choice.mutable_data_ptr<uint8_t>();
  const ReelNumbers numbers = numbers_of(seed, stream, bound);
  over_weights(N, K, [&](int64_t n, int64_t count) {
    if (draw < 0) {
      kernel.choose(from + n, K, N, count, chosen + n);
    } else {
      kernel.draw(from + n, K, N, numbers.seed, numbers.stream ^ static_cast<uint64_t>(draw), n, count, chosen + n);
    }
    kernel.gather(numbers, chosen + n, n, count, to + n);
  });
  return {weight, choice};
}

Tensor reel_score_gradient_cpu(const Tensor& grad, const Tensor& choice, SymInt reels, int64_t seed, int64_t stream,
                               double bound, bool chosen_only, CpuLevel level) {
  check_reel_gradient("reel_score_gradient", grad, choice, reels);
  if (grad.scalar_type() != at::kFloat) {
    return reel_score_gradient_definition(grad, choice, std::move(reels), seed, stream, bound, chosen_only);
  }
  const Tensor given = grad.contiguous(), which = choice.contiguous();
  const int64_t K = reels.expect_int(), N = given.numel();
  Tensor scores = planes_like(given, K);
  const ReelsKernel& kernel = kernel_for(level);
  const float* const g = given.const_data_ptr<float>();
  const uint8_t* const chosen = chosen_only ? which.const_data_ptr<uint8_t>() : nullptr;
  float* const to = scores.mutable_data_ptr<float>();
  over_weights(N, K, [&](int64_t n, int64_t count) {
    kernel.values(numbers_of(seed, stream, bound), g + n, chosen == nullptr ? nullptr : chosen + n, K, N, n, count,
                  to + n);
  });
  return scores;
}

void reel_step_cpu(const Tensor& scores, const std::optional<Tensor>& velocity, const Tensor& weight,
                   const Tensor& choice, const Tensor& grad, int64_t seed, int64_t stream, double bound, double rate,
                   double momentum, double decay, double divisor, bool nesterov, bool chosen_only, bool choose,
                   CpuLevel level) {
  check_reel_step(scores, velocity, weight, choice, grad, momentum);
  if (scores.scalar_type() != at::kFloat) {
    reel_step_definition(scores, velocity, weight, choice, grad, seed, stream, bound, rate, momentum, decay, divisor,
                         nesterov, chosen_only, choose);
    return;
  }
  const Tensor given = grad.contiguous();
  const int64_t K = scores.size(0), N = weight.numel();
  const ReelsKernel& kernel = kernel_for(level);
  const ReelNumbers numbers = numbers_of(seed, stream, bound);
  const ReelStepNumbers step = {static_cast<float>(rate), static_cast<float>(momentum), static_cast<float>(decay),
                                static_cast<float>(1 / divisor), nesterov};
  const float* const g = given.const_data_ptr<float>();
  float* const s = scores.mutable_data_ptr<float>();
  float* const v = velocity ? velocity->mutable_data_ptr<float>() : nullptr;
  float* const w = weight.mutable_data_ptr<float>();
  uint8_t* const chosen = choice.mutable_data_ptr<uint8_t>();
  over_weights(N, K, [&](int64_t n, int64_t count) {
    kernel.step(numbers, step, g + n, chosen_only ? chosen + n : nullptr, K, N, n, count, s + n,
                v == nullptr ? nullptr : v + n);
    if (!choose) return;
    kernel.choose(s + n, K, N, count, chosen + n);
    kernel.gather(numbers, chosen + n, n, count, w + n);
  });
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("reel_values", at_cpu_level<reel_values_cpu>);
  m.impl("reel_weights", at_cpu_level<reel_weights_cpu>);
  m.impl("reel_score_gradient", at_cpu_level<reel_score_gradient_cpu>);
  m.impl("reel_step_", at_cpu_level<reel_step_cpu>);
}

}  // namespace loci
