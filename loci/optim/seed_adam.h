// Adam for machines that are trained side by side and know nothing of each other: each has its own gradient norm,
// clipping, noise, count of updates and end. The order is that of neural RAMs: rescale to the norm, add noise, Adam.
//
// Legend: S seeds, P parameters of each.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "loci/optim/dense_optimizer.h"

namespace loci {

struct SeedAdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double clip_norm = 0;  // of each seed's gradient; 0: off
};

class SeedAdam final : public DenseOptimizer {
 public:
  // parameters [S, P] float32; `seeds` name the streams of noise.
  SeedAdam(const at::Tensor& parameters, std::vector<uint64_t> seeds, SeedAdamOptions options);

  // The parameters [P] of one seed: what step() and clear() take.
  const at::Tensor& of(int64_t seed) const { return views_[static_cast<size_t>(seed)]; }
  // Noise on the gradients of the next step: its standard deviation, and the number of its draw.
  void set_noise(double deviation, int64_t draw);

  // Seeds in parallel, with the same bits as one alone. A seed whose gradient is not finite keeps its bits and is no
  // longer sound().
  void step(const std::vector<at::Tensor>& parameters, double rate, double divisor) override;
  bool sound(int64_t seed) const { return sound_[static_cast<size_t>(seed)] != 0; }
  int64_t updates(int64_t seed) const { return count_.const_data_ptr<int64_t>()[seed]; }

  std::vector<std::pair<std::string, at::Tensor>> state() const override;  // "moment1", "moment2" [S, P], "count" [S]
  void clear(const at::Tensor& parameter) override;
  // The parameters of a seed are one row.
  void clear_rows(const at::Tensor& parameter, const at::Tensor& rows, const at::Tensor& like) override;
  const at::Tensor& moment1() const { return moment1_; }
  const at::Tensor& moment2() const { return moment2_; }

 private:
  int64_t seed_of(const at::Tensor& parameter) const;
  void update(int64_t seed, const float* gradient, double rate, double divisor);

  std::vector<uint64_t> seeds_;
  SeedAdamOptions options_;
  at::Tensor parameters_, moment1_, moment2_;  // [S, P]
  at::Tensor count_;                           // [S] int64
  std::vector<at::Tensor> views_;              // [P] each
  std::vector<char> sound_;                    // not bool: seeds write in parallel
  double noise_ = 0;
  uint64_t draw_ = 0;
};

}  // namespace loci
