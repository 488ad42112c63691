// Legend: B batch, C channels.
#include "loci/models/image_resnet.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/nn/modules/container/modulelist.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "loci/base/check.h"
#include "loci/models/load_state.h"
#include "loci/nn/channel_norm.h"
#include "loci/nn/initialise.h"
#include "loci/nn/relation/non_local.h"

namespace loci {

using at::Tensor;

namespace {

constexpr at::MemoryFormat kImageLast = at::MemoryFormat::ChannelsLast;
constexpr double kImageLinearDeviation = 0.01;

// "layer3.2" of "layer3.2.bn1.weight"; the whole name where it has no second dot.
std::string block_of_name(const std::string& name) {
  return name.substr(0, name.find('.', name.find('.') + 1));
}

}  // namespace

struct ImageResnet::Convolution : torch::nn::Module {
  Convolution(const ImageConvolution& shape, uint64_t seed)
      : Module("Convolution"), stride(shape.stride), padding(shape.kernel / 2) {
    const auto inputs = static_cast<double>(shape.inputs * shape.kernel * shape.kernel);
    const Tensor start =
        normal_start(seed, shape.name + ".weight", {shape.outputs, shape.inputs, shape.kernel, shape.kernel},
                     std::sqrt(2.0 / inputs));
    weight = register_parameter("weight", start.contiguous(kImageLast));
  }
  Tensor forward(const Tensor& x) const { return at::conv2d(x, weight, {}, stride, padding); }

  int64_t stride, padding;
  Tensor weight;  // [C, C', kernel, kernel]
};

struct ImageResnet::Linear : torch::nn::Module {
  Linear(int64_t inputs, int64_t outputs, uint64_t seed) : Module("Linear") {
    weight = register_parameter("weight", normal_start(seed, "fc.weight", {outputs, inputs}, kImageLinearDeviation));
    bias = register_parameter("bias", at::zeros({outputs}));
  }

  Tensor weight, bias;  // [classes, C], [classes]
};

struct ImageResnet::Block : torch::nn::Module {
  Block(const ImageResnetOptions& options, int64_t stage, int64_t number, uint64_t seed) : Module("Block") {
    for (const ImageConvolution& shape : options.convolutions(stage, number)) {
      const size_t i = convolution.size() + 1;
      convolution.push_back(register_module(fmt::format("conv{}", i), std::make_shared<Convolution>(shape, seed)));
      norm.push_back(register_module(fmt::format("bn{}", i), std::make_shared<ChannelNorm>(shape.outputs)));
    }
    if (!options.has_projection(stage, number)) return;
    const ImageConvolution shape = options.projection(stage);
    projection = std::make_shared<Convolution>(shape, seed);
    projection_norm = std::make_shared<ChannelNorm>(shape.outputs);
    torch::nn::ModuleList downsample;
    downsample->push_back(projection);
    downsample->push_back(projection_norm);
    register_module("downsample", downsample.ptr());
  }

  // The norms' outputs are nobody else's, so that sum and relu are done in place.
  Tensor forward(const Tensor& x) const {
    Tensor y = x;
    for (size_t i = 0; i < convolution.size(); ++i) {
      y = norm[i]->forward(convolution[i]->forward(y));
      if (i + 1 < convolution.size()) y.relu_();
    }
    y.add_(projection ? projection_norm->forward(projection->forward(x)) : x).relu_();
    return non_local ? non_local->forward(y) : y;
  }

  std::vector<std::shared_ptr<Convolution>> convolution;
  std::vector<std::shared_ptr<ChannelNorm>> norm;
  std::shared_ptr<Convolution> projection;  // none where x has the right shape
  std::shared_ptr<ChannelNorm> projection_norm;
  std::shared_ptr<NonLocal> non_local;
};

ImageResnet::ImageResnet(ImageResnetOptions options, uint64_t seed)
    : torch::nn::Module("ImageResnet"), options_(std::move(options)) {
  options_.check();
  conv1_ = register_module("conv1", std::make_shared<Convolution>(options_.first_convolution(), seed));
  bn1_ = register_module("bn1", std::make_shared<ChannelNorm>(options_.width));
  const auto counts = options_.blocks();
  for (int64_t stage = 0; stage < ImageResnetOptions::kStages; ++stage) {
    torch::nn::ModuleList list;
    stages_.emplace_back();
    const std::vector<int64_t> relating = options_.non_local_after(stage);
    for (int64_t number = 0; number < counts[static_cast<size_t>(stage)]; ++number) {
      auto block = std::make_shared<Block>(options_, stage, number, seed);
      if (std::find(relating.begin(), relating.end(), number) != relating.end()) {
        const std::string name = fmt::format("layer{}.{}", stage + 1, number);
        block->non_local = block->register_module(
            "non_local", std::make_shared<NonLocal>(name + ".non_local", options_.non_local_options(stage), seed));
        non_local_.emplace_back(name, block->non_local);
      }
      list->push_back(block);
      stages_.back().push_back(std::move(block));
    }
    register_module(fmt::format("layer{}", stage + 1), list.ptr());
  }
  if (options_.classes == 0) return;
  linear_ = register_module("fc", std::make_shared<Linear>(options_.stage_channels(3), options_.classes, seed));
}

std::vector<Tensor> ImageResnet::stages(const Tensor& images) {
  TORCH_CHECK(images.dim() == 4 && images.size(1) == options_.channels, "ImageResnet: images must be [B, ",
              options_.channels, ", height, width], got ", images.sizes());
  // A map of one channel has either layout, and the convolution may choose the other.
  Tensor x = bn1_->forward(conv1_->forward(images.contiguous(kImageLast)).contiguous(kImageLast)).relu_();
  x = at::max_pool2d(x, /*kernel_size=*/3, /*stride=*/2, /*padding=*/1);
  std::vector<Tensor> maps;
  for (const auto& blocks : stages_) {
    for (const auto& block : blocks) x = block->forward(x);
    maps.push_back(x);
  }
  return maps;
}

Tensor ImageResnet::forward(const Tensor& images) {
  TORCH_CHECK(linear_, "ImageResnet: forward must be of a network with classes, got none");
  const Tensor logits = at::linear(stages(images).back().mean(at::IntArrayRef{2, 3}), linear_->weight, linear_->bias);
  return logits.scalar_type() == at::kBFloat16 ? logits.to(at::kFloat) : logits;
}

std::vector<std::string> ImageResnet::extra_block_names() const {
  std::vector<std::string> names;
  const auto own = options_.own_blocks(), all = options_.blocks();
  for (size_t stage = 0; stage < all.size(); ++stage) {
    for (int64_t number = own[stage]; number < all[stage]; ++number) {
      names.push_back(fmt::format("layer{}.{}", stage + 1, number));
    }
  }
  return names;
}

std::string ImageResnet::new_part_of(const std::string& name) const {
  constexpr std::string_view part = ".non_local.";
  if (const size_t at = name.find(part); at != std::string::npos) return name.substr(0, at + part.size());
  const std::string block = block_of_name(name);
  const std::vector<std::string> extra = extra_block_names();
  return std::find(extra.begin(), extra.end(), block) != extra.end() ? block : "";
}

void ImageResnet::pass_through(const std::string& block) {
  const at::NoGradGuard guard;
  for (const auto& parameter : named_parameters()) {
    if (parameter.key() == fmt::format("{}.bn{}.weight", block, options_.has_bottlenecks() ? 3 : 2)) {
      at::Tensor scale = parameter.value();
      scale.zero_();
    }
  }
}

void ImageResnet::load(const std::map<std::string, Tensor>& state, const std::string& who) {
  std::map<std::string, Tensor> own = state;
  std::erase_if(own, [](const auto& entry) { return entry.first.ends_with(".num_batches_tracked"); });
  load_state(who, *this, own, [this](const std::string& name) { return new_part_of(name); });
  pass_through_missing([&own](const std::string& block) { return own.contains(block + ".conv1.weight"); });
}

}  // namespace loci
