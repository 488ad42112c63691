// Legend: S seeds, P parameters of each.
#include "loci/optim/seed_adam.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/random.h"

namespace loci {
namespace {

// In a fixed order of eight sums, so that it is quick and always the same.
double norm_of_seed(const float* x, int64_t P) {
  double sum[8] = {};
  int64_t p = 0;
  for (; p + 8 <= P; p += 8) {
    for (int64_t i = 0; i < 8; ++i) sum[i] += static_cast<double>(x[p + i]) * x[p + i];
  }
  for (; p < P; ++p) sum[0] += static_cast<double>(x[p]) * x[p];
  return std::sqrt(((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7])));
}

// Nearly standard normal from 64 bits: 40 coins and a uniform number that fills the gaps between their counts.
float noise_of(uint64_t bits) {
  const auto coins = static_cast<float>(std::popcount(bits & 0xffffffffff));
  const auto dither = static_cast<float>(bits >> 40) * 0x1p-24F;
  return (coins - 20.5F + dither) * 0.31491833F;  // 1 / sqrt(40/4 + 1/12)
}

uint64_t split_mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

SeedAdam::SeedAdam(const at::Tensor& parameters, std::vector<uint64_t> seeds, SeedAdamOptions options)
    : seeds_(std::move(seeds)),
      options_(options),
      parameters_(parameters.detach()),
      moment1_(at::zeros_like(parameters_)),
      moment2_(at::zeros_like(parameters_)),
      count_(at::zeros({std::ssize(seeds_)}, at::kLong)),
      sound_(seeds_.size(), 1) {
  TORCH_CHECK(parameters_.dim() == 2 && parameters_.size(0) == std::ssize(seeds_) && parameters_.is_contiguous() &&
                  parameters_.scalar_type() == at::kFloat && parameters_.is_cpu(),
              "seed_adam: parameters must be float32 [", seeds_.size(), ", P] on the CPU, got ",
              parameters_.scalar_type(), " ", parameters_.sizes());
  for (int64_t s = 0; s < std::ssize(seeds_); ++s) views_.push_back(parameters_[s]);
}

void SeedAdam::set_noise(double deviation, int64_t draw) {
  noise_ = deviation;
  draw_ = static_cast<uint64_t>(draw);
}

int64_t SeedAdam::seed_of(const at::Tensor& parameter) const {
  const auto view =
      std::find_if(views_.begin(), views_.end(), [&](const at::Tensor& v) { return v.is_same(parameter); });
  if (view == views_.end()) fail(ExitCode::bug, "seed_adam", "parameter must be one of of()", "another");
  return view - views_.begin();
}

void SeedAdam::step(const std::vector<at::Tensor>& parameters, double rate, double divisor) {
  at::parallel_for(0, std::ssize(parameters), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const at::Tensor& parameter = parameters[static_cast<size_t>(i)];
      update(seed_of(parameter), parameter.grad().const_data_ptr<float>(), rate, divisor);
    }
  });
}

void SeedAdam::update(int64_t seed, const float* gradient, double rate, double divisor) {
  const int64_t P = parameters_.size(1);
  const double norm = norm_of_seed(gradient, P) / divisor;
  sound_[static_cast<size_t>(seed)] = std::isfinite(norm) ? 1 : 0;
  if (!std::isfinite(norm)) return;
  const bool clip = options_.clip_norm > 0 && norm > options_.clip_norm;
  const auto scale = static_cast<float>((clip ? options_.clip_norm / norm : 1) / divisor);
  const auto noise = static_cast<float>(noise_);
  const uint64_t key = CounterRandom(seeds_[static_cast<size_t>(seed)], "ram.noise").bits(draw_);
  const auto count = static_cast<double>(++count_.mutable_data_ptr<int64_t>()[seed]);
  const auto step_size = static_cast<float>(rate / (1 - std::pow(options_.beta1, count)));
  const auto second = static_cast<float>(1 / std::sqrt(1 - std::pow(options_.beta2, count)));
  const auto b1 = static_cast<float>(options_.beta1), b2 = static_cast<float>(options_.beta2);
  const auto epsilon = static_cast<float>(options_.epsilon);
  float* value = parameters_.mutable_data_ptr<float>() + seed * P;
  float* m = moment1_.mutable_data_ptr<float>() + seed * P;
  float* v = moment2_.mutable_data_ptr<float>() + seed * P;
  for (int64_t p = 0; p < P; ++p) {
    float g = gradient[p] * scale;
    if (noise > 0) g += noise * noise_of(split_mix(key + 0x9e3779b97f4a7c15 * static_cast<uint64_t>(p + 1)));
    m[p] = b1 * m[p] + (1 - b1) * g;
    v[p] = b2 * v[p] + (1 - b2) * g * g;
    value[p] -= step_size * m[p] / (std::sqrt(v[p]) * second + epsilon);
  }
}

std::vector<std::pair<std::string, at::Tensor>> SeedAdam::state() const {
  return {{"moment1", moment1_}, {"moment2", moment2_}, {"count", count_}};
}

void SeedAdam::clear(const at::Tensor& parameter) {
  const int64_t seed = seed_of(parameter);
  for (const at::Tensor& moment : {moment1_, moment2_}) moment[seed].zero_();
  count_[seed].zero_();
}

void SeedAdam::clear_rows(const at::Tensor& parameter, const at::Tensor& rows, const at::Tensor& like) {
  const int64_t seed = seed_of(parameter);
  reset_moment_rows(moment1_[seed], rows);
  reset_moment_rows(moment2_[seed], rows, like);
}

}  // namespace loci
