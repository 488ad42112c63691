// The global context block of Cao, Xu, Lin, Wei and Hu 2019 ("GCNet: Non-local Networks Meet Squeeze-Excitation
// Networks and Beyond", figure 4d): one message for all positions, from one map of weights that all share. It costs
// O(N C) where a non-local block costs O(N M C).
//
// Legend: B batch, C channels, N positions, R bottleneck width.
//
//   a = softmax over j of <w, x_j>                     one number a position
//   c = sum over j of a_j x_j                          [B, C]
//   z_i = x_i + W_2 relu(layer_norm(W_1 c + b_1)) + b_2
//
// W_2 and b_2 start at 0, so that an inserted block returns its input bit for bit. A bias of the logits would change
// nothing and is left out.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>
#include <utility>

#include "loci/base/config_fields.h"

namespace loci {

struct GlobalContextOptions {
  int64_t channels = 0;    // C; no field: the network has them
  int64_t dimensions = 2;  // no field; 1 [B, C, W], 2 [B, C, H, W], 3 [B, C, T, H, W]
  int64_t ratio = 16;      // R = max(1, C / ratio)
  void fields(ConfigFields& f);

  void check() const;  // throws Error (usage)
  int64_t bottleneck() const;
};

class GlobalContext : public torch::nn::Module {
 public:
  // Weights start as N(0, 2 / inputs) by counter from (seed, name). Throws Error (usage) for impossible options.
  GlobalContext(const std::string& name, const GlobalContextOptions& options, uint64_t seed);

  // x [B, C, ...] -> the same, in x's type and layout; channels-last maps are read and written without a copy.
  at::Tensor forward(const at::Tensor& x);
  // z and a [B, N], positions frames first.
  std::pair<at::Tensor, at::Tensor> forward_with_map(const at::Tensor& x);

  const GlobalContextOptions& options() const { return options_; }

  at::Tensor key_weight;                  // w [1, C]
  at::Tensor inner_weight, inner_bias;    // W_1 [R, C], b_1 [R]
  at::Tensor norm_gain, norm_bias;        // [R]
  at::Tensor output_weight, output_bias;  // W_2 [C, R], b_2 [C]

 private:
  GlobalContextOptions options_;
};

}  // namespace loci
