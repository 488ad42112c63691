// Legend: B batch, F width of the pyramid, C channels.
#include "loci/models/feature_pyramid.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/upsample_nearest2d.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/nn/modules/container/modulelist.h>

#include <cmath>

#include "loci/nn/initialise.h"

namespace loci {

using at::Tensor;

BiasedConvolution::BiasedConvolution(const std::string& name, int64_t inputs, int64_t outputs, int64_t kernel,
                                     double gain, uint64_t seed)
    : Module("BiasedConvolution") {
  const double deviation = std::sqrt(gain / static_cast<double>(inputs * kernel * kernel));
  const Tensor start = normal_start(seed, name + ".weight", {outputs, inputs, kernel, kernel}, deviation);
  weight = register_parameter("weight", start.contiguous(at::MemoryFormat::ChannelsLast));
  bias = register_parameter("bias", at::zeros({outputs}));
}

Tensor BiasedConvolution::forward(const Tensor& x) const {
  return at::conv2d(x, weight, bias, /*stride=*/1, /*padding=*/weight.size(2) / 2);
}

FeaturePyramid::FeaturePyramid(const ImageResnetOptions& body, int64_t width, uint64_t seed)
    : Module("FeaturePyramid") {
  body_ = register_module("body", std::make_shared<ImageResnet>(body, seed));
  auto fpn = std::make_shared<torch::nn::Module>("Pyramid");
  const auto list_of = [&](const char* list, int64_t kernel, std::vector<std::shared_ptr<BiasedConvolution>>& layers) {
    torch::nn::ModuleList modules;
    for (int64_t stage = 0; stage < ImageResnetOptions::kStages; ++stage) {
      const int64_t inputs = kernel == 1 ? body.stage_channels(stage) : width;
      layers.push_back(std::make_shared<BiasedConvolution>(fmt::format("fpn.{}.{}.0", list, stage), inputs, width,
                                                           kernel, /*gain=*/1, seed));
      torch::nn::ModuleList layer;
      layer->push_back(layers.back());
      modules->push_back(layer.ptr());
    }
    fpn->register_module(list, modules.ptr());
  };
  list_of("inner_blocks", 1, lateral_);
  list_of("layer_blocks", 3, output_);
  register_module("fpn", fpn);
}

std::vector<Tensor> FeaturePyramid::forward(const Tensor& images) {
  const std::vector<Tensor> stages = body_->stages(images);
  std::vector<Tensor> maps(stages.size());
  Tensor above;
  for (size_t i = stages.size(); i-- > 0;) {
    Tensor inner = lateral_[i]->forward(stages[i]);
    if (above.defined()) inner = inner + nearest_map(above, inner.size(2), inner.size(3));
    maps[i] = output_[i]->forward(inner);
    above = inner;
  }
  return maps;
}

Tensor nearest_map(const Tensor& x, int64_t height, int64_t width) {
  if (x.size(2) == height && x.size(3) == width) return x;
  return at::upsample_nearest2d(x, at::IntArrayRef{height, width});
}

int64_t count_pyramid_parameters(const ImageResnetOptions& body, int64_t width) {
  int64_t count = 0;
  for (int64_t stage = 0; stage < ImageResnetOptions::kStages; ++stage) {
    count += width * (body.stage_channels(stage) + 1) + width * (9 * width + 1);
  }
  return count;
}

int64_t pyramid_multiply_adds(const ImageResnetOptions& body, int64_t width, int64_t image_height,
                              int64_t image_width) {
  int64_t count = 0;
  for (int64_t stage = 0; stage < ImageResnetOptions::kStages; ++stage) {
    const MapExtents map = image_resnet_map(stage, image_height, image_width);
    count += map[1] * map[2] * width * (body.stage_channels(stage) + 9 * width);
  }
  return count;
}

}  // namespace loci
