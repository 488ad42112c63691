// The residual networks for images of He, Zhang, Ren and Sun 2016 ("Deep Residual Learning for Image Recognition",
// table 1): ResNet-18, 34, 50 and 101, with non-local blocks (Wang, Girshick, Gupta and He 2018) between their blocks
// if the options say so.
//
// Legend: B batch, C channels, n blocks of a stage.
//
//   conv1            7x7, `width` channels, stride 2; batch norm, ReLU; max 3x3, stride 2
//   layer1 .. 4      2, 2, 2, 2 (ResNet-18) or 3, 4, 6 (ResNet-101: 23), 3 blocks;
//                    the first of layer2 .. 4 has stride 2
//   head             mean over positions, linear; without classes there is none
//
//   block            relu(x' + bn2(conv2(relu(bn1(conv1(x))))))     3x3 (stride), 3x3
//   bottleneck       relu(x' + bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))))     1x1, 3x3 (stride), 1x1
//   x'               x, or where the shape changes norm(downsample(x)), 1x1
//
// Parameters and buffers have the names of torchvision's state dictionaries (layer1.0.conv1.weight, fc.bias); those of
// a non-local block begin with that of the block before it: layer3.4.non_local. Maps are channels last.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/image_resnet_options.h"
#include "loci/nn/relation/non_local.h"

namespace loci {

class ChannelNorm;

class ImageResnet : public torch::nn::Module {
 public:
  // Parameters come by counter from (seed, name, position): weights N(0, 2 / inputs) (He et al. 2015), biases 0. Throws
  // Error (usage) for impossible options.
  ImageResnet(ImageResnetOptions options, uint64_t seed);

  // images [B, channels, height, width] -> logits [B, classes], float32 or float64, under autocast too.
  at::Tensor forward(const at::Tensor& images);
  // The maps that layer1 .. layer4 return, a quarter to a 32nd of the images' height and width.
  std::vector<at::Tensor> stages(const at::Tensor& images);

  const ImageResnetOptions& options() const { return options_; }
  // The non-local blocks by name ("layer3.4"), in their order.
  const NamedNonLocals& non_local() const { return non_local_; }

  // Copies parameters and buffers of a trained network, by name. Non-local blocks and extra blocks may be missing: a
  // trained network goes on with them, at first with the same output. num_batches_tracked is left out. Throws Error
  // (input) in the name of `who` for names that are unknown or missing, and for other shapes.
  void load(const std::map<std::string, at::Tensor>& state, const std::string& who = "ImageResnet");
  // For networks that contain this one. The part that a name of its parameters belongs to and that trained weights may
  // lack, or "" (load_state.h).
  std::string new_part_of(const std::string& name) const;
  // After extra blocks were missing in trained weights, whose names `is_given` knows: the scales of their last norms
  // become 0, so that they return their input.
  template <class IsGiven>
  void pass_through_missing(const IsGiven& is_given) {
    for (const std::string& name : extra_block_names()) {
      if (!is_given(name)) pass_through(name);
    }
  }

 private:
  struct Convolution;
  struct Linear;
  struct Block;
  std::vector<std::string> extra_block_names() const;
  void pass_through(const std::string& block);

  ImageResnetOptions options_;
  std::shared_ptr<Convolution> conv1_;
  std::shared_ptr<ChannelNorm> bn1_;
  std::vector<std::vector<std::shared_ptr<Block>>> stages_;
  std::shared_ptr<Linear> linear_;  // none without classes
  NamedNonLocals non_local_;
};

}  // namespace loci
