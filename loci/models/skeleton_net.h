// A small network of temporal convolutions over the joints of a skeleton, in whose middle a layer may relate joints and
// frames: nothing, a local residual block, or a non-local block over time, over joints or over both (Wang, Girshick,
// Gupta and He 2018, "Non-local Neural Networks", table 2d in logic).
//
// Legend: B batch, T frames, J joints, C `width`.
//
//   x = relu(norm(conv1(map)) + e_j)     5 frames, 2 -> C, the same for all joints; e_j: learned of each joint
//   x = relu(norm(conv2(x)))             5 frames, stride 2                                   [B, C, T / 2, 1, J]
//   x = middle(x)
//   x = relu(norm(conv3(x)))             5 frames, stride 2                                   [B, C, T / 4, 1, J]
//   logits = linear(dropout(mean of x over frames))      a weight for each joint: C J -> classes
//
//   none        x
//   residual    x + norm(W_2 relu(norm(W_1 x)))      W_1 3 frames x 3 joints to `residual_width` channels, W_2 1x1
//   non_local   nn/relation/non_local.h; its domain `space` is the joints of a frame, `time` the frames of a joint
//
// Without a middle, joints meet in the last sum alone. The last norm of a middle has scale 0 at first, so that all
// networks of a seed start as the same function.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/models/trained_parameters.h"
#include "loci/nn/relation/non_local.h"

namespace loci {

enum class SkeletonMiddle { none, residual, non_local };

// [model]
struct SkeletonNetOptions {
  int64_t width = 32;  // C
  SkeletonMiddle middle = SkeletonMiddle::none;
  int64_t residual_width = 32;
  NonLocalOptions non_local;  // [model.non_local]; its channels and dimensions follow
  double dropout = 0.5;
  int64_t frames = 32;   // T; no field: the data's
  int64_t joints = 15;   // J; no field: the data's
  int64_t classes = 14;  // no field: the data's
  void fields(ConfigFields& f);

  // Throws Error (usage) for options that do not fit each other or the map.
  void check() const;
  NonLocalOptions non_local_of_map() const;
  MapExtents map() const;  // of the middle: T / 2, 1, J

  int64_t parameters() const;
  // Of one clip forward: convolutions, the middle and the linear layer.
  int64_t multiply_adds() const;
  // Numbers of a clip that backward keeps: outputs of convolutions, norms and sums.
  double kept_numbers() const;
};

class SkeletonNet : public torch::nn::Module {
 public:
  // Weights start as N(0, 2 / inputs) by counter from (seed, name). Throws Error (usage) for impossible options.
  SkeletonNet(const SkeletonNetOptions& options, uint64_t seed);

  // maps [B, 2, T, J] -> logits [B, classes], float32 or float64, under autocast too. generator: for dropout; none: the
  // framework's default.
  at::Tensor forward(const at::Tensor& maps, std::optional<at::Generator> generator = {});

  const SkeletonNetOptions& options() const { return options_; }
  std::vector<NamedParameter> dense_parameters() const { return trained_parameters(*this); }
  // The middle, if it is a non-local block.
  NamedNonLocals non_local() const;

 private:
  struct Layer;
  std::shared_ptr<Layer> add_layer(const std::string& name, int64_t inputs, int64_t outputs, const MapExtents& kernel,
                                   int64_t stride, uint64_t seed);

  SkeletonNetOptions options_;
  std::shared_ptr<Layer> conv1_, conv2_, conv3_;
  std::shared_ptr<Layer> residual1_, residual2_;
  std::shared_ptr<NonLocal> non_local_;
  at::Tensor joint_bias_;                   // e [C, 1, 1, J]
  at::Tensor linear_weight_, linear_bias_;  // [classes, C J], [classes]
};

}  // namespace loci
