// A network of signs (binary_net.h) with its signs in words: 32 times smaller, and without real numbers between its
// first layer and its scores. What loci convert --packed writes, and what examples/packed_mnist reads without torch.
//
// Legend: B batch, C channels, K inputs, O outputs, w words of K signs, C' words of C signs.
//
//   pixels p of 0 .. 255; x = 2 p - 255 = -(sum over bit planes b of 2^b s_b), where s_b is -1 where bit b of p is 1
//   first stage   y = -(sum over b of 2^b binary_linear(s_b, W))
//   others        y = binary_linear(bits of x, W); of maps each pixel begins a word, and the bits behind its last
//                 channel are 0 on both sides: they add their number to y, and the thresholds contain it
//   between       bits of x = binary_threshold(2x2 max of y, threshold, turned)
//   last          scores = (y - mean) * factor + bias, y without the sum above
//
// Buffers, all that a file holds:
//
//   plan            [stages, 4] int64: convolution (0, 1), inputs, outputs, pooled (0, 1)
//   image           [3] int64: height, width, C
//   stageI.bits     [O, w] int64; of a convolution [O, 9 w]: pixels of the kernel row by row, each C' words, in the
//   first
//                   stage K = 9 C signs together; of a hidden layer behind a map [O, pixels C']
//   stageI.threshold [O] int32, stageI.turned [ceil(O / 64)] int64
//   stageI.mean, .factor, .bias [O] float32: of the last stage
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <vector>

#include "loci/models/binary_net.h"

namespace loci {

class PackedNet : public torch::nn::Module {
 public:
  // Of zeros, for the buffers of a file.
  explicit PackedNet(const BinaryNetOptions& options);
  // Throws Error (usage) for a network of real weights, (input) for one that is not finite.
  explicit PackedNet(const BinaryNet& network);

  // images [B, C, height, width] of whole numbers 2 p - 255 -> scores [B, classes] float32, with the bits of BinaryNet
  // in evaluation mode.
  at::Tensor forward(const at::Tensor& images) const;

  // Throws Error (input) in the name of `who` unless the buffers, read from a file, are of this network.
  void check(const std::string& who) const;

 private:
  struct Stage {
    BinaryStage shape;
    int64_t words = 0;   // of an output
    int64_t unused = 0;  // bits of them that are no signs
    at::Tensor bits, threshold, turned, mean, factor, bias;
  };
  void take(const BinaryNet& network);
  at::Tensor first(const Stage& stage, const at::Tensor& pixels) const;
  at::Tensor next(const Stage& stage, const at::Tensor& product) const;

  BinaryNetOptions options_;
  at::Tensor plan_, image_;
  std::vector<Stage> stages_;
};

}  // namespace loci
