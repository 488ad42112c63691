// Things that are seen in several views, each of them clean, very noisy or missing: data for what makes one vector of
// several views (nn/small/view_attention.h). The set is ours.
//
// Legend: V views (3), L `latent`, X `width` of a view.
//
//   cluster c    centre ~ N(0, I) of L numbers
//   item i       of cluster i mod clusters; z = centre + spread * N(0, I)
//   view k       x = tanh(A_k z) + deviation * N(0, I), A_k [X, L] ~ N(0, 4 / L) once for a seed
//   deviation    clean_noise, or with probability noisy_share noisy_noise
//   missing      with probability missing_share; x = 0
//
// Items 0 .. warm - 1 are for training, `cold` more are new to the network. Two items are related when their cluster is
// the same. Everything is a pure function of (seed, item, view).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/random.h"

namespace loci {

// [data]
struct ViewItemsOptions {
  static constexpr int64_t kViews = 3;
  int64_t clusters = 60;
  int64_t warm = 2400;
  int64_t cold = 600;
  int64_t latent = 16;
  int64_t width = 32;
  double spread = 0.5;
  double clean_noise = 0.1;
  double noisy_noise = 2;
  double noisy_share = 0.5;
  double missing_share = 0.2;
  bool hide_noisy = false;  // noisy views are missing, and with them the little that they say
  void fields(ConfigFields& f);

  void check() const;  // throws Error (usage)
  int64_t items() const { return warm + cold; }
};

class ViewItems {
 public:
  // Throws Error (usage) for options that are none.
  ViewItems(const ViewItemsOptions& options, uint64_t seed);

  int64_t cluster(int64_t item) const { return item % options_.clusters; }
  bool clean(int64_t item, int64_t view) const;
  bool present(int64_t item, int64_t view) const;
  void draw(int64_t item, int64_t view, float* out) const;  // x [X]

 private:
  ViewItemsOptions options_;
  CounterRandom latent_, noise_, noisy_, missing_;
  std::vector<double> centres_;  // [clusters, L]
  std::vector<double> maps_;     // A [V, X, L]
};

}  // namespace loci
