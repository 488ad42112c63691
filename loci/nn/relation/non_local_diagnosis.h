// What a non-local block does with its input: where it looks, and how much it adds.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "loci/nn/relation/non_local.h"

namespace loci {

// Means over queries. Weights are |p| / sum |p| for the forms whose p may be negative or do not sum to 1; a query whose
// weights are all 0 counts as even.
struct NonLocalDiagnosis {
  double entropy = 1;           // -sum p ln p / ln M: 1 for even weights and for M = 1, 0 for one key of several
  double greatest_entropy = 1;  // of any query
  double largest_weight = 0;
  double space_distance = 0;  // to the keys looked at, in pixels of the map, at the centres of pooled cells
  double time_distance = 0;   // in frames
  double residual_ratio = 0;  // rms(norm(W_z y)) / rms(x)
  double largest_scale = 0;   // of the norm, absolute; of W_z without a norm

  // The block still returns its input after so many steps of training: its residual ratio is below 1e-4 and its scale
  // below 1e-3 after 1,000 steps.
  bool still_dead(int64_t steps) const;
  // Every query looks at one key: entropies below 0.01.
  bool collapsed() const;
};

// p [.., M] of a block's queries as shares |p| / sum |p|, float64; even ones where all are 0.
at::Tensor weight_shares(const at::Tensor& p);

// Of at most 4 samples and about 256 queries of each, in evaluation; parameters and statistics stay as they are.
NonLocalDiagnosis diagnose(const NonLocal& block, const at::Tensor& x);

// One line of text for a log, or "": "block still dead", "collapsed to one key".
std::string warning_of(const NonLocalDiagnosis& diagnosis, int64_t steps);

}  // namespace loci
