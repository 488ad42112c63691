// Legend: S seeds, P parameters.
#include "loci/tasks/ram_seeds.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "loci/base/random.h"

namespace loci {

void RamUpdateOptions::fields(ConfigFields& f) {
  f.field("learning_rate", learning_rate, {.minimum = 0});
  f.field("beta1", beta1, {.minimum = 0, .maximum = 0.999999});
  f.field("beta2", beta2, {.minimum = 0, .maximum = 0.999999});
  f.field("epsilon", epsilon, {.minimum = 0});
  f.field("clip_norm", clip_norm, {.minimum = 0});
  f.field("noise", noise, {.minimum = 0});
  f.field("noise_decay", noise_decay, {.minimum = 0, .maximum = 1});
  f.field("entropy", entropy, {.minimum = 0});
  f.field("entropy_decay", entropy_decay, {.minimum = 0, .maximum = 1});
}

void RamAnnealOptions::fields(ConfigFields& f) {
  f.field("begin_error", begin_error, {.minimum = 0, .maximum = 1});
  f.field("entropy", entropy, {.minimum = 0});
  f.field("ramp", ramp, {.minimum = 1});
  f.field("updates", updates, {.minimum = 1});
  f.field("rate", rate, {.minimum = 0});
  f.field("lost_error", lost_error, {.minimum = 0, .maximum = 1});
  f.field("patience", patience, {.minimum = 1});
  f.field("check_every", check_every, {.minimum = 1});
}

std::string_view name_of(RamPhase phase) {
  switch (phase) {
    case RamPhase::learning:
      return "learning";
    case RamPhase::annealing:
      return "annealing";
    case RamPhase::finished:
      return "finished";
    case RamPhase::unsolved:
      return "unsolved";
    case RamPhase::broken:
      return "broken";
  }
  return "";
}

RamSeeds::RamSeeds(std::vector<uint64_t> seeds, at::Tensor parameters, RamUpdateOptions update, RamAnnealOptions anneal)
    : seeds_(std::move(seeds)), update_(update), anneal_(anneal), states_(seeds_.size()) {
  tensors_.parameters = parameters.detach();
  for (at::Tensor* tensor : {&tensors_.moment1, &tensors_.moment2, &tensors_.begin_parameters, &tensors_.begin_moment1,
                             &tensors_.begin_moment2, &tensors_.best_parameters}) {
    *tensor = at::zeros_like(tensors_.parameters);
  }
  for (RamSeedState& state : states_) state.anneal_entropy = anneal_.entropy;
  packed_ = at::zeros({std::ssize(seeds_), 10}, at::kDouble);
}

std::vector<int64_t> RamSeeds::active() const {
  std::vector<int64_t> list;
  for (size_t s = 0; s < states_.size(); ++s) {
    if (states_[s].active()) list.push_back(static_cast<int64_t>(s));
  }
  return list;
}

int64_t RamSeeds::count(RamPhase phase) const {
  int64_t sum = 0;
  for (const RamSeedState& state : states_) sum += state.phase == phase;
  return sum;
}

double RamSeeds::entropy_bonus(int64_t seed, int64_t step) const {
  const RamSeedState& state = states_[static_cast<size_t>(seed)];
  if (state.phase == RamPhase::learning)
    return update_.entropy * std::pow(update_.entropy_decay, static_cast<double>(step));
  const double share = static_cast<double>(state.anneal_updates) / static_cast<double>(anneal_.ramp);
  return -state.anneal_entropy * std::min(1.0, share);
}

namespace {

// In a fixed order of eight sums, so that it is quick and always the same.
double norm_of(const float* x, int64_t P) {
  double sum[8] = {};
  int64_t p = 0;
  for (; p + 8 <= P; p += 8) {
    for (int64_t i = 0; i < 8; ++i) sum[i] += static_cast<double>(x[p + i]) * x[p + i];
  }
  for (; p < P; ++p) sum[0] += static_cast<double>(x[p]) * x[p];
  return std::sqrt(((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7])));
}

// Nearly standard normal from 64 bits: 40 coins and a uniform number that fills the gaps between their counts.
float normal_of(uint64_t bits) {
  const auto coins = static_cast<float>(std::popcount(bits & 0xffffffffff));
  const auto dither = static_cast<float>(bits >> 40) * 0x1p-24F;
  return (coins - 20.5F + dither) * 0.31491833F;  // 1 / sqrt(40/4 + 1/12)
}

uint64_t scramble(uint64_t x) {  // SplitMix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

bool RamSeeds::apply(int64_t seed, int64_t step, const float* gradient) {
  RamSeedState& state = states_[static_cast<size_t>(seed)];
  const int64_t P = tensors_.parameters.size(1);
  const double norm = norm_of(gradient, P);
  if (!std::isfinite(norm)) return false;
  const bool learning = state.phase == RamPhase::learning;
  const auto scale =
      static_cast<float>(update_.clip_norm > 0 && norm > update_.clip_norm ? update_.clip_norm / norm : 1);
  const auto noise =
      static_cast<float>(learning ? update_.noise * std::pow(update_.noise_decay, static_cast<double>(step)) : 0);
  const uint64_t key = CounterRandom(seeds_[static_cast<size_t>(seed)], "ram.noise").bits(static_cast<uint64_t>(step));
  ++state.updates;
  const auto count = static_cast<double>(state.updates);
  const double rate = update_.learning_rate * (learning ? 1 : anneal_.rate);
  const auto step_size = static_cast<float>(rate / (1 - std::pow(update_.beta1, count)));
  const auto second = static_cast<float>(1 / std::sqrt(1 - std::pow(update_.beta2, count)));
  const auto b1 = static_cast<float>(update_.beta1), b2 = static_cast<float>(update_.beta2);
  const auto epsilon = static_cast<float>(update_.epsilon);
  float* value = tensors_.parameters.mutable_data_ptr<float>() + seed * P;
  float* m = tensors_.moment1.mutable_data_ptr<float>() + seed * P;
  float* v = tensors_.moment2.mutable_data_ptr<float>() + seed * P;
  for (int64_t p = 0; p < P; ++p) {
    float g = gradient[p] * scale;
    if (noise > 0) g += noise * normal_of(scramble(key + 0x9e3779b97f4a7c15 * static_cast<uint64_t>(p + 1)));
    m[p] = b1 * m[p] + (1 - b1) * g;
    v[p] = b2 * v[p] + (1 - b2) * g * g;
    value[p] -= step_size * m[p] / (std::sqrt(v[p]) * second + epsilon);
  }
  return true;
}

void RamSeeds::begin_anneal(int64_t seed, int64_t step) {
  RamSeedState& state = states_[static_cast<size_t>(seed)];
  state.phase = RamPhase::annealing;
  state.learned_at = step;
  state.anneal_updates = state.lost_updates = 0;
  tensors_.begin_parameters[seed].copy_(tensors_.parameters[seed]);
  tensors_.begin_moment1[seed].copy_(tensors_.moment1[seed]);
  tensors_.begin_moment2[seed].copy_(tensors_.moment2[seed]);
}

void RamSeeds::restart_anneal(int64_t seed) {
  RamSeedState& state = states_[static_cast<size_t>(seed)];
  state.anneal_updates = state.lost_updates = 0;
  state.anneal_entropy /= 2;
  tensors_.parameters[seed].copy_(tensors_.begin_parameters[seed]);
  tensors_.moment1[seed].copy_(tensors_.begin_moment1[seed]);
  tensors_.moment2[seed].copy_(tensors_.begin_moment2[seed]);
}

void RamSeeds::offer(int64_t seed, double discrete_error) {
  RamSeedState& state = states_[static_cast<size_t>(seed)];
  if (discrete_error > state.best_error) return;
  state.best_error = discrete_error;
  tensors_.best_parameters[seed].copy_(tensors_.parameters[seed]);
}

void RamSeeds::finish(int64_t seed) {
  RamSeedState& state = states_[static_cast<size_t>(seed)];
  state.phase = RamPhase::finished;
  if (state.best_error <= 1) tensors_.parameters[seed].copy_(tensors_.best_parameters[seed]);
}

std::vector<std::pair<std::string, at::Tensor>> RamSeeds::tensors() {
  return {{"seeds.state", packed_},
          {"seeds.moment1", tensors_.moment1},
          {"seeds.moment2", tensors_.moment2},
          {"seeds.begin_parameters", tensors_.begin_parameters},
          {"seeds.begin_moment1", tensors_.begin_moment1},
          {"seeds.begin_moment2", tensors_.begin_moment2},
          {"seeds.best_parameters", tensors_.best_parameters}};
}

void RamSeeds::pack() {
  for (size_t s = 0; s < states_.size(); ++s) {
    const RamSeedState& state = states_[s];
    const double row[10] = {static_cast<double>(state.phase),
                            static_cast<double>(state.curriculum.level),
                            static_cast<double>(state.curriculum.updates_since_rise),
                            state.curriculum.error,
                            static_cast<double>(state.updates),
                            static_cast<double>(state.anneal_updates),
                            static_cast<double>(state.lost_updates),
                            state.anneal_entropy,
                            state.best_error,
                            static_cast<double>(state.learned_at)};
    std::copy(std::begin(row), std::end(row), packed_.mutable_data_ptr<double>() + 10 * s);
  }
}

void RamSeeds::unpack() {
  for (size_t s = 0; s < states_.size(); ++s) {
    const double* row = packed_.const_data_ptr<double>() + 10 * s;
    const auto whole = [&](int i) { return static_cast<int64_t>(row[i]); };
    states_[s] = {.phase = static_cast<RamPhase>(whole(0)),
                  .curriculum = {.level = whole(1), .updates_since_rise = whole(2), .error = row[3]},
                  .updates = whole(4),
                  .anneal_updates = whole(5),
                  .lost_updates = whole(6),
                  .anneal_entropy = row[7],
                  .best_error = row[8],
                  .learned_at = whole(9)};
  }
}

}  // namespace loci
