// How often the field of an ODE block was evaluated, over forward passes: what tasks with such blocks measure.
#pragma once

#include <ATen/ops/zeros.h>

#include <cmath>
#include <string>
#include <utility>

#include "loci/nn/small/ode_block.h"
#include "loci/train/measure.h"

namespace loci {

class OdeEvaluations {
 public:
  OdeEvaluations() : counted_(at::zeros({2}, at::kLong)) {}

  void add(const OdeBlock& block) {
    auto* counted = counted_.mutable_data_ptr<int64_t>();
    counted[0] += block.counts().forward.evaluations;
    ++counted[1];
  }
  // Of a forward pass, the mean since the last call; NaN without any.
  double take() {
    auto* counted = counted_.mutable_data_ptr<int64_t>();
    const double mean =
        counted[1] == 0 ? std::nan("") : static_cast<double>(counted[0]) / static_cast<double>(counted[1]);
    counted_.zero_();
    return mean;
  }
  // To save and to copy into.
  std::pair<std::string, at::Tensor> state() const { return {"evaluations", counted_}; }

  static Measure measure() {
    return {"evaluations", 1, true, "", "evaluations of the block's field in a forward pass over test samples"};
  }

 private:
  at::Tensor counted_;  // [2] int64: evaluations, and forward passes
};

}  // namespace loci
