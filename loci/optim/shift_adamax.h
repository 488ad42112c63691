// AdaMax whose products are shifts (Courbariaux, Hubara et al. 2016, "Binarized neural networks", arXiv 1602.02830:
// shift-based AdaMax): factors are rounded to powers of two.
//
//   AP2(z) = sign(z) * 2^round(log2 |z|)                           nearest_power
//   g      = gradient / divisor;  a = AP2(1 - beta1), b = AP2(1 - beta2)
//   p     <- p (1 - rate * decay)                                  as AdamW; not of the paper
//   m     <- m + a (g - m)                                         update t of the parameter, from 1
//   v     <- max((1 - b) v, |g|)
//   p     <- p - AP2(rate / (1 - (1 - a)^t)) * m / AP2(v)          0 where v is 0
//
// The paper's numbers are 1 - beta1 = 2^-3, 1 - beta2 = 2^-10 and a rate of 2^-10; 0.9 and 0.999 are rounded to them. v
// is kept unrounded: a power of two times 1 - 2^-10, rounded again, would never decay. Same bits for any thread count.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "loci/optim/dense_optimizer.h"
#include "loci/optim/parameter_states.h"

namespace loci {

class ShiftAdamax final : public DenseOptimizer {
 public:
  ShiftAdamax(const DenseOptimizerOptions& options, const std::vector<NamedParameter>& parameters);

  void step(const std::vector<at::Tensor>& parameters, double rate, double divisor) override;
  std::vector<std::pair<std::string, at::Tensor>> state()
      const override;  // "NAME.moment1", "NAME.largest", "NAME.count"
  void clear(const at::Tensor& parameter) override;
  void clear_rows(const at::Tensor& parameter, const at::Tensor& rows, const at::Tensor& like) override;

 private:
  void update(const at::Tensor& parameter, double rate, double divisor);

  double share1_, share2_;  // a and b
  ParameterStates states_;
};

}  // namespace loci
