// The video networks of Wang, Girshick, Gupta and He 2018 ("Non-local Neural Networks", section 4): ResNet-50 and
// ResNet-101 over frames, C2D (kernels of one frame) and I3D (inflated kernels), with non-local blocks.
//
// Legend: B batch, T frames, H height, W width, C channels, n blocks of a stage.
//
//   conv1       1x7x7, 64 channels, stride 2,2,2; batch norm, ReLU           I3D: 5x7x7
//   pool1       max 3x3x3, stride 2,2,2
//   res2        3 bottlenecks, 256 channels
//   pool2       max 3x1x1, stride 2,1,1
//   res3..res5  4, 6 (ResNet-101: 23) and 3 bottlenecks, 512, 1024 and 2048 channels; the first has stride 1,2,2
//   head        mean over positions, dropout, linear
//
//   bottleneck  relu(x' + bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))))    1x1x1, 1x3x3, 1x1x1
//
// 32 frames of 224 x 224 end as 4 x 7 x 7. With `time_halvings` 1 (for 8 frames), conv1 and pool1 (1x3x3) leave time as
// it is and pool2 joins 2 frames; with 0, pool2 is left out. `bottleneck_counts`, `width` and `first_kernel` make
// smaller networks of the same form. I3D inflates conv1 and about every second bottleneck: its first convolution
// (3x1x1) or its second (3x3x3).
//
// Parameters have the names of torchvision's resnet50 and resnet101 (conv1.weight, layer1.0.conv1.weight, fc.bias) with
// weights [C, C', kernel in time, height, width]; the block after bottleneck b of stage s is non_local.res{s}_{b}. Maps
// are channels last.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/trained_parameters.h"
#include "loci/models/video_resnet_options.h"
#include "loci/nn/relation/non_local.h"

namespace loci {

class ChannelNorm;

class VideoResnet : public torch::nn::Module {
 public:
  // Weights N(0, 2 / inputs) (He et al. 2015), inflated from those of one frame: each of t frames has 1/t of them.
  // Throws Error (usage) for impossible options.
  VideoResnet(VideoResnetOptions options, uint64_t seed);

  // clips [B, channels, T, H, W] -> logits [B, classes], float32 or float64, under autocast too. generator: for
  // dropout; none: the framework's default.
  at::Tensor forward(const at::Tensor& clips, std::optional<at::Generator> generator = {});
  // The map that the mean is taken of, [B, 2048, T', H', W'].
  at::Tensor features(const at::Tensor& clips);

  const VideoResnetOptions& options() const { return options_; }
  std::vector<NamedParameter> dense_parameters() const { return trained_parameters(*this); }
  // The non-local blocks by name, in their order: "res4_4".
  const NamedNonLocals& non_local() const { return non_local_; }

  // Copies parameters and buffers of a trained model, by name. Weights of an image network [C, C', height, width] are
  // inflated. Those of non-local blocks may be missing: a trained network goes on with blocks, at first with the same
  // output. num_batches_tracked is left out. Throws Error (input) in the name of `who` for unknown or missing names and
  // for other shapes.
  void load(const std::map<std::string, at::Tensor>& state, const std::string& who = "VideoResnet");

 private:
  struct Convolution;
  struct Linear;
  struct Bottleneck;
  at::Tensor stem(const at::Tensor& clips);

  VideoResnetOptions options_;
  std::shared_ptr<Convolution> conv1_;
  std::shared_ptr<ChannelNorm> bn1_;
  std::vector<std::vector<std::shared_ptr<Bottleneck>>> stages_;
  std::shared_ptr<Linear> linear_;
  NamedNonLocals non_local_;
};

// A kernel of one frame [C, C', height, width], or [C, C', 1, height, width], over t frames: 1/t of it in each.
at::Tensor inflated(const at::Tensor& weight, int64_t t);

}  // namespace loci
