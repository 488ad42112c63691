// A small convolutional network for PairShapes (data/procedural/pair_shapes.h) in which nothing but its middle can
// relate distant positions: the layer under test among 3x3 windows, as Wang, Girshick, Gupta and He 2018 ("Non-local
// Neural Networks") put it among those of a ResNet.
//
// Legend: B batch, T frames, C `width`, I `inner`, h = w = 16.
//
//   x = relu(norm(conv1(frames)))         5x5, stride 2, 1 -> C    frame by frame             [B T, C, h, w]
//   x = relu(norm(conv2(x)))              3x3, C -> C              frame by frame
//   x = middle(x)                                                                             [B, C, (T,) h, w]
//   x = relu(norm(conv3(x)))              1x1, C -> C
//   logits = linear(mean of x over frames and positions)                                      [B, 2]
//
//   none        x
//   residual    x + norm(W_2 relu(norm(W_1 x)))      W_1 3x3 (clips: 3x3x3) to `residual_width` channels, W_2 1x1
//   uniform     x + norm(W_z mean_j(W_g x_j + b_g))  one message of I channels for all positions
//   non_local   nn/relation/non_local.h
//
// The last norm of each has scale 0 at first, so that all networks of a seed start as the same function. A position of
// x sees 9 x 9 pixels before the middle and 13 x 13 behind `residual`; to touch two patterns 17 apart takes 14. So
// without a message over distance each position sees one pattern at most, and the logits are a sum u(a) + u'(b), for
// nothing but the mean over positions and the linear layer follows. Maps are channels last throughout.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/models/trained_parameters.h"
#include "loci/nn/relation/non_local.h"

namespace loci {

enum class PairMiddle { none, residual, uniform, non_local };

// [model]
struct PairNetOptions {
  int64_t width = 32;  // C
  PairMiddle middle = PairMiddle::none;
  int64_t residual_width = 64;  // residual
  int64_t inner = 16;           // uniform: I
  NonLocalOptions non_local;    // [model.non_local]; its channels and dimensions follow from C and T
  int64_t frames = 1;           // T; no field: the data's
  void fields(ConfigFields& f);

  // Throws Error (usage) for options that do not fit each other or the map.
  void check() const;
  NonLocalOptions non_local_of_map() const;
  MapExtents map() const;  // T, h, w

  int64_t parameters() const;
  // Of one sample forward: convolutions, the middle and the linear layer.
  int64_t multiply_adds() const;
  // Numbers of a sample that backward keeps: outputs of convolutions, norms and sums.
  double kept_numbers() const;
};

class PairNet : public torch::nn::Module {
 public:
  // Weights start as N(0, 2 / inputs) by counter from (seed, name). Throws Error (usage) for impossible options.
  PairNet(const PairNetOptions& options, uint64_t seed);

  // frames [B, T, 32, 32] -> logits [B, 2], float32 or float64, under autocast too.
  at::Tensor forward(const at::Tensor& frames);

  const PairNetOptions& options() const { return options_; }
  // The middle, if it is a non-local block.
  NamedNonLocals non_local() const;
  std::vector<NamedParameter> dense_parameters() const { return trained_parameters(*this); }

 private:
  struct Layer;
  struct UniformMessage;
  std::shared_ptr<Layer> add_layer(const std::string& name, const std::vector<int64_t>& sizes, int64_t stride,
                                   uint64_t seed);
  at::Tensor middle(const at::Tensor& x) const;  // [B, C, h, w] or [B, C, T, h, w]

  PairNetOptions options_;
  std::shared_ptr<Layer> conv1_, conv2_, conv3_;
  std::shared_ptr<Layer> residual1_, residual2_;
  std::shared_ptr<UniformMessage> uniform_;
  std::shared_ptr<NonLocal> non_local_;
  at::Tensor linear_weight_, linear_bias_;  // [2, C], [2]
};

}  // namespace loci
