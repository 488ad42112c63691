// The settings of random_bases.h.
#pragma once

#include <cstdint>

#include "loci/base/config_fields.h"
#include "loci/ops/random_basis/random_basis.h"

namespace loci {

// Weights that share directions.
enum class Compartments { one, per_tensor };
// What a direction's coefficient is made from.
enum class CoefficientsFrom { gradient, losses };
// What is subtracted from the losses.
enum class LossBaseline { none, mean };

// [optimizer.bases]
struct RandomBasesOptions {
  int64_t directions = 250;
  Compartments compartments = Compartments::one;
  BasisValues values = BasisValues::normal;
  bool fixed = false;  // the bases of step 0 for ever
  CoefficientsFrom from = CoefficientsFrom::gradient;
  double distance = 0.1;                       // losses: of the weights that are tried
  LossBaseline baseline = LossBaseline::mean;  // losses
  void fields(ConfigFields& f);
};

}  // namespace loci
