// The training of independent seeds side by side: each has its own curriculum, optimiser state, gradient norm, noise,
// anneal and end. A seed's numbers do not depend on the others.
//
// Legend: S seeds, P parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/data/ram/curriculum.h"
#include "loci/optim/seed_adam.h"

namespace loci {

// [update]: how a seed's parameters follow their gradient. The order is the paper's: rescale to norm, add noise, Adam.
struct RamUpdateOptions {
  double learning_rate = 4e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double clip_norm = 10;        // C2; 0: off
  double noise = 0;             // standard deviation of update 0
  double noise_decay = 0.9995;  // a factor each update
  double entropy = 0.1;         // bonus lambda of update 0
  double entropy_decay = 0.9995;
  void fields(ConfigFields& f);
};

// [anneal]: towards choices of one source each. Begins when a seed has learned the last level.
struct RamAnnealOptions {
  double begin_error = 0.002;
  double entropy = 0.05;  // the bonus goes from 0 to minus this over `ramp` updates
  int64_t ramp = 840;
  int64_t updates = 1200;    // most; it ends after the ramp as soon as the discrete machine is exact
  double rate = 0.3;         // of the learning rate
  double lost_error = 0.02;  // above it for `patience` updates: back to the begin, with half the entropy
  int64_t patience = 200;
  int64_t check_every = 60;  // updates
  void fields(ConfigFields& f);
};

enum class RamPhase : int64_t { learning, annealing, finished, unsolved, broken };
std::string_view name_of(RamPhase phase);

struct RamSeedState {
  RamPhase phase = RamPhase::learning;
  CurriculumState curriculum;
  int64_t anneal_updates = 0;
  int64_t lost_updates = 0;  // in a row with an error above lost_error
  double anneal_entropy = 0;
  double best_error = 2;    // discrete, of the validation instances; 2: none yet
  int64_t learned_at = -1;  // update at which the anneal first began

  bool active() const { return phase == RamPhase::learning || phase == RamPhase::annealing; }
};

class RamSeeds {
 public:
  RamSeeds(std::vector<uint64_t> seeds, at::Tensor parameters, RamUpdateOptions update, RamAnnealOptions anneal);

  std::vector<RamSeedState>& states() { return states_; }
  const std::vector<RamSeedState>& states() const { return states_; }
  std::vector<int64_t> active() const;
  int64_t count(RamPhase phase) const;
  int64_t updates(int64_t seed) const { return optimizer_.updates(seed); }  // of Adam

  // lambda of a seed's next update.
  double entropy_bonus(int64_t seed, int64_t step) const;
  // One Adam update of each of these active seeds from its row of `gradient` [U, P]. A seed whose row is not `sound`
  // ([U] bool) or not finite keeps its parameters and is broken from now on; the others go on.
  void update(int64_t step, const std::vector<int64_t>& seeds, const at::Tensor& gradient, const at::Tensor& sound);

  void begin_anneal(int64_t seed, int64_t step);
  // Back to the begin, with half the entropy.
  void restart_anneal(int64_t seed);
  // Keeps the parameters if their error is the least so far.
  void offer(int64_t seed, double discrete_error);
  // Ends with the best parameters of the anneal.
  void finish(int64_t seed);

  // For checkpoints: tensors to save and to copy into, and the states from and to them. unpack() throws Error (input)
  // for states that cannot be.
  std::vector<std::pair<std::string, at::Tensor>> tensors();
  void pack();
  void unpack();

 private:
  std::vector<uint64_t> seeds_;
  RamUpdateOptions update_;
  RamAnnealOptions anneal_;
  at::Tensor parameters_;  // [S, P] float32, as the ones below
  SeedAdam optimizer_;
  at::Tensor begin_parameters_, begin_moment1_, begin_moment2_;  // when the anneal began
  at::Tensor best_parameters_;                                   // of the anneal
  std::vector<RamSeedState> states_;
  at::Tensor packed_;  // [S, kPacked] float64
};

}  // namespace loci
