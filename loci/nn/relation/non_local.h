// The non-local block of Wang, Girshick, Gupta and He 2018 ("Non-local Neural Networks", section 3): every position of
// a feature map adds a weighted sum over all positions (docs/non-local.md).
//
// Legend: B batch, C channels, I inner width, N positions of a query's window, M those of its keys.
//
//   y_i = sum over j of p_ij g(x_j)                        eq. (1), p with the normalisation 1/Z
//   z = x + norm(W_z y)                                    eq. (6), x [B, C, ...]
//
//   gaussian   p_i = softmax over j of <x_i, x_j>          eq. (2)
//   embedded   p_i = softmax over j of scale <theta(x_i), phi(x_j)>    eq. (3)
//   dot        p_ij = <theta(x_i), phi(x_j)> / M           eq. (4)
//   concat     p_ij = relu(w . [theta(x_i), phi(x_j)]) / M     eq. (5)
//
// theta, phi, g and W_z are 1x1 convolutions with bias. The scale of the batch norm starts at 0, without a norm W_z
// does, so that an inserted block returns its input bit for bit; `layer` has no parameters and cannot. No N x M matrix
// exists on large maps (ops/non_local_*). Channels-last maps are read and written without a copy.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/common.h>
#include <torch/nn/modules/container/any_value.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/nn/batch_normalised.h"
#include "loci/nn/relation/non_local_options.h"

namespace loci {

class NonLocal : public torch::nn::Module {
 public:
  // Parameters come by counter from (seed, name, position). Throws Error (usage) for impossible options.
  NonLocal(const std::string& name, NonLocalOptions options, uint64_t seed);

  // x [B, C, ...] -> the same, in x's type and layout. mask: [N, M] bool for domain spacetime: the keys that a query
  // sees, by the definition; Z counts those alone, and a query without a key gets y = 0. In training, W_z = 0 under a
  // scale of 0 is refused (c10::Error): neither would ever move.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& mask = {});
  // z and p [B windows, N, M], by the definition. Windows follow frames, height, width.
  std::pair<at::Tensor, at::Tensor> forward_with_map(const at::Tensor& x, const at::Tensor& mask = {});

  // What follows from x before any pair is formed. Concat: query [B windows, N, 1], key [B windows, M, 1].
  struct Pairs {
    at::Tensor query, key, value;  // [B windows, N or M, I]; C in the place of I for gaussian queries and keys
    MapExtents map, window, keys;  // keys: the window's, after pooling
  };
  Pairs pairs(const at::Tensor& x) const;
  // p of these queries [.., n, I] and keys [.., M, I].
  at::Tensor weights(const at::Tensor& query, const at::Tensor& key, const at::Tensor& mask = {}) const;
  // norm(W_z y) for y [B windows, N, I] of all of x, as a channels-last map.
  at::Tensor residual(const at::Tensor& x, const Pairs& pairs, const at::Tensor& y, bool training) const;

  // From now on keeps the first `samples` samples that forward() gets, for diagnose() and for pictures; 0 (the start)
  // keeps none.
  void keep_inputs(int64_t samples);
  // Those of the last forward(), without gradients; undefined where none were kept.
  const at::Tensor& kept_input() const { return kept_input_; }

  const NonLocalOptions& options() const { return options_; }

  // Undefined where the form has none.
  at::Tensor theta_weight, theta_bias, phi_weight, phi_bias;  // [I, C], [I]
  at::Tensor g_weight, g_bias;                                // [I, C], [I]
  at::Tensor concat_weight;                                   // [2 I]: theta's part first
  at::Tensor output_weight, output_bias;                      // W_z [C, I], [C]
  NormTensors norm;                                           // [C]

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(at::Tensor())})

 private:
  double scale() const;
  at::Tensor summed(const Pairs& pairs) const;
  void keep_input(const at::Tensor& x);

  NonLocalOptions options_;
  int64_t kept_samples_ = 0;
  at::Tensor kept_input_;
};

// The blocks of a network by name ("layer3.1"), in their order.
using NamedNonLocals = std::vector<std::pair<std::string, std::shared_ptr<NonLocal>>>;

}  // namespace loci
