// The options of a residual network for images: fields, checks, counts. The network: image_resnet.h.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/relation/non_local_options.h"

namespace loci {

// [model.non_local]; channels and dimensions are the stage's.
struct ImageNonLocalOptions : NonLocalOptions {
  std::vector<int64_t> blocks = {0, 0, 1, 0};  // by stage, at non_local_places()
  void fields(ConfigFields& f);
};

// A convolution without a bias that a norm follows; padding keeps "same" positions.
struct ImageConvolution {
  std::string name;  // "layer1.0.conv2"
  int64_t inputs, outputs, kernel, stride;
  int64_t weights() const { return inputs * outputs * kernel * kernel; }
};

// [model]
struct ImageResnetOptions {
  static constexpr int64_t kStages = 4;
  int64_t depth = 18;                                // 18, 34: blocks of two convolutions; 50, 101: of three
  int64_t width = 64;                                // of conv1
  int64_t classes = 0;                               // no field; 0: no linear layer
  int64_t channels = 3;                              // of the images; no field
  std::vector<int64_t> extra_blocks = {0, 0, 0, 0};  // by stage, at its end
  bool has_non_local = false;
  ImageNonLocalOptions non_local;
  void fields(ConfigFields& f);

  // Throws Error (usage) for options that do not fit each other.
  void check() const;
  bool has_bottlenecks() const { return depth >= 50; }
  int64_t stage_channels(int64_t stage) const { return (width << stage) * (has_bottlenecks() ? 4 : 1); }
  // Residual blocks by stage: of the depth, and with the extra ones.
  std::array<int64_t, kStages> own_blocks() const;
  std::array<int64_t, kStages> blocks() const;
  ImageConvolution first_convolution() const { return {"conv1", channels, width, 7, 2}; }
  // conv1, conv2 (and conv3) of a block.
  std::vector<ImageConvolution> convolutions(int64_t stage, int64_t block) const;
  // Whether the block changes the shape of its input, and downsample.0, which then does the same in the shortcut.
  bool has_projection(int64_t stage, int64_t block) const;
  ImageConvolution projection(int64_t stage) const;
  // The residual blocks of a stage, from 0, that a non-local block follows.
  std::vector<int64_t> non_local_after(int64_t stage) const;
  NonLocalOptions non_local_options(int64_t stage) const;
};

// A stage's map for images of height x width: {1, height, width}.
MapExtents image_resnet_map(int64_t stage, int64_t height, int64_t width);

// Before anything is allocated; of one image forward: convolutions, the linear layer and non-local blocks. Throws Error
// (usage) for counts beyond int64.
int64_t count_image_resnet_parameters(const ImageResnetOptions& options);
int64_t image_resnet_multiply_adds(const ImageResnetOptions& options, int64_t height, int64_t width);
// Numbers that backward keeps of an image: outputs of convolutions and norms, each block's sum.
double image_resnet_kept_numbers(const ImageResnetOptions& options, int64_t height, int64_t width);

}  // namespace loci
