// Steps in random bases: a gradient's inner products with d random directions, drawn anew at each step and never
// stored, and a step along them (RBD: Gressmann et al., NeurIPS 2020, "Improving neural network training in low
// dimensional random bases", arXiv 2011.04720). Beside it the same with bases that stay (FPD: Li et al. 2018,
// "Measuring the intrinsic dimension of objective landscapes") and with coefficients from losses alone (NES: Wierstra
// et al. 2014, "Natural evolution strategies").
//
// Legend: n weights, d directions, g compartments of n_g weights and d_g directions, phi_i direction i
// (random_basis.h).
//
//   for each compartment g with gradient G_g:
//     c_i = phi_i . G_g                                              from the gradient
//     c_i = (L(theta + distance phi_i) - baseline) / distance        from losses; baseline 0, or the mean of those of g
//     theta_g -= rate * (n_g / d_g) * (d / n) * sum over i of c_i phi_i
//
// d_g is in proportion to n_g, and at least 1: the factor, 1 but for rounding, keeps that 1 from being a larger rate of
// a small tensor. The expected cosine of step and gradient is sqrt(d / n), and of the square of the step's length the
// share d / n of the gradient's: rates are larger than those of SGD. Same bits for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "loci/optim/dense_optimizer.h"

namespace loci {

// Directions of each compartment, `directions` in all: in proportion to its weights, at least 1.
std::vector<int64_t> share_directions(int64_t directions, const std::vector<int64_t>& weights);

class RandomBases final : public DenseOptimizer {
 public:
  // `seed`: of the directions. Throws Error (usage) for more directions than weights, or fewer than compartments.
  RandomBases(const DenseOptimizerOptions& options, const std::vector<NamedParameter>& parameters, uint64_t seed);

  void step(const std::vector<at::Tensor>& parameters, double rate, double divisor) override;
  bool by_losses() const override { return options_.from == CoefficientsFrom::losses; }
  bool step_by_losses(const std::function<double()>& loss, double rate) override;
  std::vector<std::pair<std::string, at::Tensor>> state() const override;  // "bases.steps"
  // There is no state of parameters.
  void clear(const at::Tensor& parameter) override;
  void clear_rows(const at::Tensor& parameter, const at::Tensor& rows, const at::Tensor& like) override;

  // step() in two halves, for workers. Rank r of `ranks` has a part of each compartment's directions; its coefficients
  // [d] of the gradients divided by `divisor` are 0 elsewhere. Their sum over the ranks is all that is exchanged: with
  // equal gradients it has the bits of one rank.
  at::Tensor coefficients(const std::vector<at::Tensor>& parameters, double divisor, int64_t rank = 0,
                          int64_t ranks = 1) const;
  // Moves `parameters` by the coefficients [d] and counts a step.
  void move(const std::vector<at::Tensor>& parameters, const at::Tensor& coefficients, double rate);

  int64_t directions() const { return options_.directions; }

 private:
  struct Member {
    at::Tensor value;
    double decay;
    double rate;    // factor
    int64_t first;  // weight of the compartment
  };
  struct Compartment {
    std::vector<Member> members;
    int64_t weights = 0, directions = 0, first = 0;  // `first`: in coefficients [d]
    double scale = 1;                                // (n_g / d_g) * (d / n)
  };
  using Given = std::vector<const c10::TensorImpl*>;

  BasisKey key_of(size_t compartment) const;
  at::Tensor gradient_of(const Compartment& compartment, const Given& given) const;
  at::Tensor loss_differences(size_t compartment, const std::function<double()>& loss) const;

  RandomBasesOptions options_;
  std::vector<Compartment> compartments_;
  at::ScalarType type_;  // of coefficients
  uint64_t seed_;
  at::Tensor steps_;  // int64 scalar
};

}  // namespace loci
