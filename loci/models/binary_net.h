// Networks of signs (Courbariaux, Hubara et al. 2016, "Binarized neural networks", arXiv 1602.02830), and the same
// networks of real numbers beside them.
//
// Legend: B batch, C channels, K inputs, O outputs.
//
//   x = images                                   whole numbers 2 p - 255 of pixels p of 0 .. 255
//   for each stage, convolutions first, then hidden layers and the last:
//     y = x sign(W)^T, or a convolution          binary_layers.h; real: x W^T
//     y = 2x2 max of y                           where the stage is pooled
//     x = sign(norm(y))                          real: relu(norm(y)); the last: scores = norm(y); in training the sign
//                                                may be drawn, and the norm may be that of shift_norm.h
//   loss: squared hinge
//
// The border of a map is +1, that of images -255; real: 0 and -255. All sums are of whole numbers below 2^24 and so
// exact in float32: packed_net.h has the same scores, bit for bit. Maps are channels last; a map becomes inputs of a
// hidden layer pixel by pixel.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "loci/models/binary_net_options.h"
#include "loci/nn/small/fold_norm.h"
#include "loci/optim/dense_optimizer.h"

namespace loci {

class BinaryNet : public torch::nn::Module {
 public:
  // Weights start by counter from (seed, name): binary ones as U(-1, 1), real ones as N(0, 2 / inputs).
  BinaryNet(const BinaryNetOptions& options, uint64_t seed);

  // images [B, C, height, width] -> scores [B, classes] float32, under autocast too.
  at::Tensor forward(const at::Tensor& images) const;

  const BinaryNetOptions& options() const { return options_; }
  // Binary weights with their rule (binary_parameter).
  std::vector<NamedParameter> dense_parameters() const;

  // Of stage i, as packing reads them.
  at::Tensor weight(size_t i) const;
  NormLine line(size_t i) const;  // of its norm in evaluation mode

 private:
  struct Stage;
  BinaryNetOptions options_;
  std::vector<std::shared_ptr<Stage>> stages_;
};

}  // namespace loci
