// Legend: S seeds, P parameters.
#include "loci/tasks/ram_seeds.h"

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include <fmt/ranges.h>

#include "loci/base/check.h"

namespace loci {

void RamUpdateOptions::fields(ConfigFields& f) {
  f.field("learning_rate", learning_rate, "learning rate of Adam", {.minimum = 0});
  f.field("beta1", beta1, "decay of the first moment", {.minimum = 0, .maximum = 0.999999});
  f.field("beta2", beta2, "decay of the second moment", {.minimum = 0, .maximum = 0.999999});
  f.field("epsilon", epsilon, "added to the root of the second moment", {.minimum = 0});
  f.field("clip_norm", clip_norm, "largest norm of a seed's gradient; 0: not clipped", {.minimum = 0});
  f.field("noise", noise, "standard deviation of the noise on the gradient of update 0", {.minimum = 0});
  f.field("noise_decay", noise_decay, "factor of the noise from one update to the next", {.minimum = 0, .maximum = 1});
  f.field("entropy", entropy, "entropy bonus of update 0", {.minimum = 0});
  f.field("entropy_decay", entropy_decay, "factor of the bonus from one update to the next",
          {.minimum = 0, .maximum = 1});
}

void RamAnnealOptions::fields(ConfigFields& f) {
  f.field("begin_error", begin_error, "error of the last level below which the anneal begins",
          {.minimum = 0, .maximum = 1});
  f.field("entropy", entropy, "the bonus falls from 0 to minus this", {.minimum = 0});
  f.field("ramp", ramp, "updates over which it falls", {.minimum = 1});
  f.field("updates", updates, "most updates; it ends after the ramp as soon as the discrete machine is exact",
          {.minimum = 1});
  f.field("rate", rate, "factor of the learning rate", {.minimum = 0});
  f.field("lost_error", lost_error, "error above which a seed counts as lost", {.minimum = 0, .maximum = 1});
  f.field("patience", patience, "lost updates in a row after which it begins again with half the entropy",
          {.minimum = 1});
  f.field("check_every", check_every, "updates between two trials of the discrete machine", {.minimum = 1});
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

namespace {

constexpr int64_t kPacked = 9;  // numbers of a seed's state

}  // namespace

RamSeeds::RamSeeds(std::vector<uint64_t> seeds, at::Tensor parameters, RamUpdateOptions update, RamAnnealOptions anneal)
    : seeds_(std::move(seeds)),
      update_(update),
      anneal_(anneal),
      parameters_(parameters.detach()),
      optimizer_(
          parameters_, seeds_,
          {.beta1 = update.beta1, .beta2 = update.beta2, .epsilon = update.epsilon, .clip_norm = update.clip_norm}),
      states_(seeds_.size()) {
  for (at::Tensor* tensor : {&begin_parameters_, &begin_moment1_, &begin_moment2_, &best_parameters_}) {
    *tensor = at::zeros_like(parameters_);
  }
  for (RamSeedState& state : states_) state.anneal_entropy = anneal_.entropy;
  packed_ = at::zeros({std::ssize(seeds_), kPacked}, at::kDouble);
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
  if (state.phase == RamPhase::learning) {
    return update_.entropy * std::pow(update_.entropy_decay, static_cast<double>(step));
  }
  const double share = static_cast<double>(state.anneal_updates) / static_cast<double>(anneal_.ramp);
  return -state.anneal_entropy * std::min(1.0, share);
}

void RamSeeds::update(int64_t step, const std::vector<int64_t>& seeds, const at::Tensor& gradient,
                      const at::Tensor& sound) {
  std::vector<at::Tensor> learning, annealing;
  for (int64_t row = 0; row < std::ssize(seeds); ++row) {
    const int64_t seed = seeds[static_cast<size_t>(row)];
    RamSeedState& state = states_[static_cast<size_t>(seed)];
    if (!sound.const_data_ptr<bool>()[row]) {
      state.phase = RamPhase::broken;
      continue;
    }
    const at::Tensor& parameters = optimizer_.of(seed);
    parameters.mutable_grad() = gradient[row];
    (state.phase == RamPhase::learning ? learning : annealing).push_back(parameters);
  }
  optimizer_.set_noise(update_.noise * std::pow(update_.noise_decay, static_cast<double>(step)), step);
  optimizer_.step(learning, update_.learning_rate, 1);
  optimizer_.set_noise(0, step);
  optimizer_.step(annealing, update_.learning_rate * anneal_.rate, 1);
  for (const int64_t seed : seeds) {
    optimizer_.of(seed).mutable_grad().reset();
    if (!optimizer_.sound(seed)) states_[static_cast<size_t>(seed)].phase = RamPhase::broken;
  }
}

void RamSeeds::begin_anneal(int64_t seed, int64_t step) {
  RamSeedState& state = states_[static_cast<size_t>(seed)];
  state.phase = RamPhase::annealing;
  state.learned_at = step;
  state.anneal_updates = state.lost_updates = 0;
  begin_parameters_[seed].copy_(parameters_[seed]);
  begin_moment1_[seed].copy_(optimizer_.moment1()[seed]);
  begin_moment2_[seed].copy_(optimizer_.moment2()[seed]);
}

void RamSeeds::restart_anneal(int64_t seed) {
  RamSeedState& state = states_[static_cast<size_t>(seed)];
  state.anneal_updates = state.lost_updates = 0;
  state.anneal_entropy /= 2;
  parameters_[seed].copy_(begin_parameters_[seed]);
  optimizer_.moment1()[seed].copy_(begin_moment1_[seed]);
  optimizer_.moment2()[seed].copy_(begin_moment2_[seed]);
}

void RamSeeds::offer(int64_t seed, double discrete_error) {
  RamSeedState& state = states_[static_cast<size_t>(seed)];
  if (discrete_error > state.best_error) return;
  state.best_error = discrete_error;
  best_parameters_[seed].copy_(parameters_[seed]);
}

void RamSeeds::finish(int64_t seed) {
  RamSeedState& state = states_[static_cast<size_t>(seed)];
  state.phase = RamPhase::finished;
  if (state.best_error <= 1) parameters_[seed].copy_(best_parameters_[seed]);
}

std::vector<std::pair<std::string, at::Tensor>> RamSeeds::tensors() {
  std::vector<std::pair<std::string, at::Tensor>> named = {{"seeds.state", packed_},
                                                           {"seeds.begin_parameters", begin_parameters_},
                                                           {"seeds.begin_moment1", begin_moment1_},
                                                           {"seeds.begin_moment2", begin_moment2_},
                                                           {"seeds.best_parameters", best_parameters_}};
  for (const auto& [name, tensor] : optimizer_.state()) named.emplace_back("seeds." + name, tensor);
  return named;
}

void RamSeeds::pack() {
  for (size_t s = 0; s < states_.size(); ++s) {
    const RamSeedState& state = states_[s];
    const double row[kPacked] = {static_cast<double>(state.phase),
                                 static_cast<double>(state.curriculum.level),
                                 static_cast<double>(state.curriculum.updates_since_rise),
                                 state.curriculum.error,
                                 static_cast<double>(state.anneal_updates),
                                 static_cast<double>(state.lost_updates),
                                 state.anneal_entropy,
                                 state.best_error,
                                 static_cast<double>(state.learned_at)};
    std::copy(std::begin(row), std::end(row), packed_.mutable_data_ptr<double>() + kPacked * static_cast<int64_t>(s));
  }
}

void RamSeeds::unpack() {
  for (size_t s = 0; s < states_.size(); ++s) {
    const double* row = packed_.const_data_ptr<double>() + kPacked * static_cast<int64_t>(s);
    const bool finite = std::all_of(row, row + kPacked, [](double x) { return std::abs(x) < 9e15; });
    if (!finite || row[0] < 0 || row[0] > static_cast<double>(RamPhase::broken)) {
      fail(ExitCode::input, "seeds.state", "a seed's state must be finite numbers, the first of them a phase",
           fmt::format("{}", fmt::join(row, row + kPacked, ", ")));
    }
    const auto whole = [&](int i) { return static_cast<int64_t>(row[i]); };
    states_[s] = {.phase = static_cast<RamPhase>(whole(0)),
                  .curriculum = {.level = whole(1), .updates_since_rise = whole(2), .error = row[3]},
                  .anneal_updates = whole(4),
                  .lost_updates = whole(5),
                  .anneal_entropy = row[6],
                  .best_error = row[7],
                  .learned_at = whole(8)};
  }
}

}  // namespace loci
