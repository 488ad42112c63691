// The Feature Pyramid Network of Lin et al. 2017 ("Feature Pyramid Networks for Object Detection", section 3) on a
// residual network.
//
// Legend: B batch, F `width` of the pyramid, C_i channels of stage i = 1 .. 4, c_i its map, p_i that of the pyramid.
//
//   m_4 = lateral_4(c_4)                                         1x1, C_4 -> F
//   m_i = lateral_i(c_i) + m_(i+1) at the nearest of its positions
//   p_i = output_i(m_i)                                          3x3, F -> F
//
// Parameters have the names of torchvision's detectors, in the module that holds the pyramid: body.conv1.weight,
// fpn.inner_blocks.0.0.weight (lateral), fpn.layer_blocks.0.0.bias (output). Maps are channels last.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/models/image_resnet.h"

namespace loci {

// A convolution with a bias and "same" padding.
class BiasedConvolution : public torch::nn::Module {
 public:
  // weights N(0, gain / inputs), biases 0.
  BiasedConvolution(const std::string& name, int64_t inputs, int64_t outputs, int64_t kernel, double gain,
                    uint64_t seed);
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight, bias;  // [outputs, inputs, kernel, kernel], [outputs]
};

class FeaturePyramid : public torch::nn::Module {
 public:
  // The body has no classes.
  FeaturePyramid(const ImageResnetOptions& body, int64_t width, uint64_t seed);

  // images [B, channels, height, width] -> p_1 .. p_4 [B, F, ...], the finest first.
  std::vector<at::Tensor> forward(const at::Tensor& images);

  ImageResnet& body() { return *body_; }
  const ImageResnet& body() const { return *body_; }

 private:
  std::shared_ptr<ImageResnet> body_;
  std::vector<std::shared_ptr<BiasedConvolution>> lateral_, output_;
};

// x [B, C, h, w] at the nearest of its positions for each of height x width.
at::Tensor nearest_map(const at::Tensor& x, int64_t height, int64_t width);

// Of the pyramid alone, without its body.
int64_t count_pyramid_parameters(const ImageResnetOptions& body, int64_t width);
int64_t pyramid_multiply_adds(const ImageResnetOptions& body, int64_t width, int64_t image_height, int64_t image_width);

}  // namespace loci
