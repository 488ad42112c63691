// The block of Shen, Zhang, Zhao, Yi and Li 2021 ("Efficient Attention: Attention with Linear Complexities", section
// 3.2): queries are normalised over their channels and keys over the positions, so that keys and values can be summed
// first. It is not equal to a softmax over pairs.
//
// Legend: B batch, C channels, N positions, I inner width of queries, keys and values.
//
//   q_i = softmax over channels of theta(x_i)          k = softmax over positions of phi(x), each channel alone
//   y_i = sum over j of <q_i, k_j> g(x_j) = q_i (k^T g)
//   z = x + W_z y
//
// theta, phi, g and W_z are 1x1 convolutions with bias. W_z starts at 0, so that an inserted block returns its input
// bit for bit. The products are taken in the order with fewer multiply-adds (ops/non_local_dot).
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>

#include "loci/base/config_fields.h"

namespace loci {

struct EfficientAttentionOptions {
  int64_t channels = 0;    // C; no field: the network has them
  int64_t dimensions = 2;  // no field; 1 [B, C, W], 2 [B, C, H, W], 3 [B, C, T, H, W]
  int64_t inner = 0;       // I; 0: max(1, C / 2)
  void fields(ConfigFields& f);

  void check() const;  // throws Error (usage)
  int64_t inner_width() const;
};

class EfficientAttention : public torch::nn::Module {
 public:
  // Weights start as N(0, 2 / inputs) by counter from (seed, name). Throws Error (usage) for impossible options.
  EfficientAttention(const std::string& name, const EfficientAttentionOptions& options, uint64_t seed);

  // x [B, C, ...] -> the same, in x's type and layout; channels-last maps are read and written without a copy.
  at::Tensor forward(const at::Tensor& x);

  const EfficientAttentionOptions& options() const { return options_; }

  at::Tensor theta_weight, theta_bias;    // [I, C], [I]
  at::Tensor phi_weight, phi_bias;        // [I, C], [I]
  at::Tensor g_weight, g_bias;            // [I, C], [I]
  at::Tensor output_weight, output_bias;  // W_z [C, I], [C]

 private:
  EfficientAttentionOptions options_;
};

}  // namespace loci
