// Networks whose weights are found among fixed random values (Aladago and Torresani 2021, "Slot machines", arXiv
// 2101.06475; nn/small/reel_layers.h), and the same networks with learned weights.
//
// Legend: B batch, C channels.
//
//   x = images
//   for each stage, convolutions first, then hidden layers and the last:
//     y = x W^T, or a convolution with a border of zeros; no bias, no norm
//     x = 2x2 max of relu(y) where the stage is pooled, relu(y) elsewhere; the last: logits = y
//
// Learned weights start as N(0, 2 / (fan_in + fan_out)), or as those that a network of reels has found.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "loci/models/reel_net_options.h"
#include "loci/optim/dense_optimizer.h"

namespace loci {

class ReelNet : public torch::nn::Module {
 public:
  ReelNet(const ReelNetOptions& options, uint64_t seed);

  at::Tensor forward(const at::Tensor& images);  // [B, C, height, width] -> logits [B, classes]

  const ReelNetOptions& options() const { return options_; }
  // Of reels: each a parameter with its own update (ReelWeight::parameter), for SGD.
  std::vector<NamedParameter> dense_parameters();
  // Copies a network's tensors. One with learned weights takes those that a network of reels has found too. Throws
  // Error (input) in the name of `who`.
  void load(const std::map<std::string, at::Tensor>& state, const std::string& who);

  // Of reels: share of each stage's weights that have another reel than at the start.
  std::vector<double> moved() const;

 private:
  struct Stage;
  ReelNetOptions options_;
  std::vector<std::shared_ptr<Stage>> stages_;
};

}  // namespace loci
