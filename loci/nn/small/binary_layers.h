// Layers whose weights are signs (Courbariaux, Hubara et al. 2016, "Binarized neural networks", arXiv 1602.02830), as
// they are trained: weights are kept as real numbers of [-1, 1], and used by their signs.
//
// Legend: B batch, C channels, K inputs, O outputs.
//
//   BinaryLinear   x [.., K] -> x sign(W)^T [.., O]
//   BinaryConv2d   x [B, C, height, width] -> the convolution of x, with a border around it, with sign(W)
//   forward        sign(w) = +1 where w >= 0, else -1
//   backward       dL/dW = dL/dsign(W); nothing is masked, for the rule keeps W within [-1, 1]
//   rule           W := clip(W + c * update, -1, 1) with c = 1 / sqrt(1.5 / (fan_in + fan_out))
//   start          U(-1, 1)
//
// There is no bias: a batch norm follows. The products are made in the weights' type under autocast too: where x holds
// whole numbers, they are exact in float32 as long as sums stay below 2^24, whatever the order of the sums.
// Activations become signs by straight_through_sign, or by StraightThroughSign, which may draw them in training; the
// packed form is in loci/ops/binary_linear.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>

#include "loci/ops/straight_through_sign/straight_through_sign.h"
#include "loci/optim/dense_optimizer.h"

namespace loci {

// The rule above as that of a parameter: no decay, factor c on its rate, clipped after its update.
NamedParameter binary_parameter(const std::string& name, const at::Tensor& weight);

class BinaryLinear : public torch::nn::Module {
 public:
  // Weights start by counter from (seed, name + ".weight", position).
  BinaryLinear(const std::string& name, int64_t inputs, int64_t outputs, uint64_t seed);
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight;  // [O, K]
};

// Stride 1, kernels of an odd edge, a border of edge / 2 pixels of the value `border`: +1, because 0 is no sign. A
// first layer of real inputs may have another.
class BinaryConv2d : public torch::nn::Module {
 public:
  BinaryConv2d(const std::string& name, int64_t channels, int64_t outputs, int64_t edge, uint64_t seed,
               double border = 1);
  at::Tensor forward(const at::Tensor& x) const;  // [B, O, height, width]

  at::Tensor weight;  // [O, C, edge, edge]

 private:
  double border_;
};

// straight_through_sign as a layer; `sampled`: in training sampled_sign, +1 with probability clip((x + 1) / 2, 0, 1).
class StraightThroughSign : public torch::nn::Module {
 public:
  // Draws come by counter from (seed, name). They go on from call to call, so that a batch may be cut in parts.
  StraightThroughSign(const std::string& name, bool sampled, uint64_t seed);
  at::Tensor forward(const at::Tensor& x);

  at::Tensor key;    // [2] int64: seed and stream; of a sampled one, as a buffer
  at::Tensor drawn;  // [1] int64: how many numbers were drawn; of a sampled one, as a buffer
};

// The mean over B and O of max(0, 1 - t * score)^2 with t = +1 for the label's class, -1 for the others. score [B, O],
// labels [B] int64.
at::Tensor squared_hinge_loss(const at::Tensor& score, const at::Tensor& labels);

}  // namespace loci
