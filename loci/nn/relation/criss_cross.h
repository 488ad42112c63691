// The criss-cross block of Huang, Wang, Huang, Huang, Wei and Liu 2019 ("CCNet: Criss-Cross Attention for Semantic
// Segmentation", section 3): every position looks at its row and its column; done twice, with the same weights, it
// gets what any position has. It costs O(N (H + W)) numbers where a non-local block has N x N pairs.
//
// Legend: B batch, C channels, H height, W width of a map, I inner width.
//
//   p_i = softmax over the H + W - 1 positions j in the row and the column of i of <q(x_i), k(x_j)>
//   z_i = x_i + gain * sum over j of p_ij v(x_j)
//
// q and k have I channels, v has C: 1x1 convolutions with bias. The gain is one number that starts at 0, so that an
// inserted block returns its input bit for bit.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>

#include "loci/base/config_fields.h"

namespace loci {

struct CrissCrossOptions {
  int64_t channels = 0;  // C; no field: the network has them
  int64_t inner = 0;     // I; 0: max(1, C / 8)
  int64_t passes = 2;    // of the same block, one after another
  void fields(ConfigFields& f);

  void check() const;  // throws Error (usage)
  int64_t inner_width() const;
};

class CrissCross : public torch::nn::Module {
 public:
  // Weights start as N(0, 2 / inputs) by counter from (seed, name). Throws Error (usage) for impossible options.
  CrissCross(const std::string& name, const CrissCrossOptions& options, uint64_t seed);

  // x [B, C, H, W] -> the same, in x's type and layout. Columns are copied once to stand in rows.
  at::Tensor forward(const at::Tensor& x);

  const CrissCrossOptions& options() const { return options_; }

  at::Tensor query_weight, query_bias;  // [I, C], [I]
  at::Tensor key_weight, key_bias;      // [I, C], [I]
  at::Tensor value_weight, value_bias;  // [C, C], [C]
  at::Tensor gain;                      // [1]

 private:
  at::Tensor pass(const at::Tensor& x) const;

  CrissCrossOptions options_;
};

}  // namespace loci
