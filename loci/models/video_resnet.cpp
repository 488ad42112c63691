// Legend: B batch, T frames, H height, W width, C channels.
#include "loci/models/video_resnet.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool3d.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/nn/modules/container/modulelist.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "loci/base/check.h"
#include "loci/models/load_state.h"
#include "loci/nn/channel_norm.h"
#include "loci/nn/dropout.h"
#include "loci/nn/initialise.h"

namespace loci {

using at::Tensor;

namespace {

constexpr at::MemoryFormat kClipsLast = at::MemoryFormat::ChannelsLast3d;

Tensor pooled_clip(const Tensor& x, const std::pair<MapExtents, MapExtents>& pool) {
  const auto& [kernel, stride] = pool;
  if (kernel == MapExtents{1, 1, 1}) return x;
  MapExtents padding = {};
  for (size_t i = 0; i < 3; ++i) padding[i] = kernel[i] == 3 ? 1 : 0;
  return at::max_pool3d(x, kernel, stride, padding);
}

}  // namespace

Tensor inflated(const Tensor& weight, int64_t t) {
  TORCH_CHECK(weight.dim() == 4 || (weight.dim() == 5 && weight.size(2) == 1),
              "inflated: weight must be [C, C', height, width] or [C, C', 1, height, width], got ", weight.sizes());
  const Tensor one = weight.dim() == 4 ? weight.unsqueeze(2) : weight;
  return one.repeat({1, 1, t, 1, 1}) / t;
}

struct VideoResnet::Convolution : torch::nn::Module {
  Convolution(VideoConvolution description, uint64_t seed) : Module("Convolution"), shape(std::move(description)) {
    const int64_t inputs = shape.inputs * shape.kernel[1] * shape.kernel[2];
    const Tensor start =
        normal_start(seed, shape.name + ".weight", {shape.outputs, shape.inputs, shape.kernel[1], shape.kernel[2]},
                     std::sqrt(2.0 / static_cast<double>(inputs)));
    weight = register_parameter("weight", inflated(start, shape.kernel[0]).contiguous(kClipsLast));
  }
  Tensor forward(const Tensor& x) const { return at::conv3d(x, weight, {}, shape.stride, shape.padding()); }

  VideoConvolution shape;
  Tensor weight;  // [C, C', kernel]
};

struct VideoResnet::Linear : torch::nn::Module {
  Linear(int64_t inputs, int64_t outputs, uint64_t seed) : Module("Linear") {
    weight = register_parameter("weight", normal_start(seed, "fc.weight", {outputs, inputs}, 0.01));
    bias = register_parameter("bias", at::zeros({outputs}));
  }

  Tensor weight, bias;  // [classes, C], [classes]
};

struct VideoResnet::Bottleneck : torch::nn::Module {
  Bottleneck(const std::vector<VideoConvolution>& list, uint64_t seed) : Module("Bottleneck") {
    for (size_t i = 0; i < 3; ++i) {
      convolution[i] = register_module(fmt::format("conv{}", i + 1), std::make_shared<Convolution>(list[i], seed));
      norm[i] = register_module(fmt::format("bn{}", i + 1), std::make_shared<ChannelNorm>(list[i].outputs));
    }
    if (list.size() < 4) return;
    shortcut = std::make_shared<Convolution>(list[3], seed);
    shortcut_norm = std::make_shared<ChannelNorm>(list[3].outputs);
    torch::nn::ModuleList downsample;
    downsample->push_back(shortcut);
    downsample->push_back(shortcut_norm);
    register_module("downsample", downsample.ptr());
  }

  // The norms' outputs are nobody else's, so that sum and relu are done in place.
  Tensor forward(const Tensor& x) const {
    Tensor y = x;
    for (size_t i = 0; i < 3; ++i) {
      y = norm[i]->forward(convolution[i]->forward(y));
      if (i < 2) y.relu_();
    }
    return y.add_(shortcut ? shortcut_norm->forward(shortcut->forward(x)) : x).relu_();
  }

  std::array<std::shared_ptr<Convolution>, 3> convolution;
  std::array<std::shared_ptr<ChannelNorm>, 3> norm;
  std::shared_ptr<Convolution> shortcut;  // none where x has the right shape
  std::shared_ptr<ChannelNorm> shortcut_norm;
};

VideoResnet::VideoResnet(VideoResnetOptions options, uint64_t seed)
    : torch::nn::Module("VideoResnet"), options_(std::move(options)) {
  options_.check();
  conv1_ = register_module("conv1", std::make_shared<Convolution>(options_.first_convolution(), seed));
  bn1_ = register_module("bn1", std::make_shared<ChannelNorm>(options_.width));
  const auto counts = options_.bottlenecks();
  auto blocks = std::make_shared<torch::nn::Module>("NonLocalBlocks");
  for (int64_t stage = 0; stage < VideoResnetOptions::kStages; ++stage) {
    torch::nn::ModuleList list;
    stages_.emplace_back();
    for (int64_t b = 0; b < counts[static_cast<size_t>(stage)]; ++b) {
      stages_.back().push_back(std::make_shared<Bottleneck>(options_.convolutions(stage, b), seed));
      list->push_back(stages_.back().back());
    }
    register_module(fmt::format("layer{}", stage + 1), list.ptr());
    for (const int64_t b : options_.blocks_after(stage)) {
      const std::string name = fmt::format("res{}_{}", stage + 2, b);
      auto block = std::make_shared<NonLocal>("non_local." + name, options_.block_options(stage), seed);
      non_local_.emplace_back(name, blocks->register_module(name, block));
    }
  }
  if (!non_local_.empty()) register_module("non_local", blocks);
  linear_ = register_module("fc", std::make_shared<Linear>(options_.stage_channels(3), options_.classes, seed));
}

Tensor VideoResnet::stem(const Tensor& clips) {
  TORCH_CHECK(clips.dim() == 5 && clips.size(1) == options_.channels, "VideoResnet: clips must be [B, ",
              options_.channels, ", frames, height, width], got ", clips.sizes());
  const Tensor x = bn1_->forward(conv1_->forward(clips.contiguous(kClipsLast)).contiguous(kClipsLast)).relu_();
  return pooled_clip(x, options_.pool1());
}

Tensor VideoResnet::features(const Tensor& clips) {
  Tensor x = stem(clips);
  auto block = non_local_.begin();
  for (int64_t stage = 0; stage < VideoResnetOptions::kStages; ++stage) {
    const std::vector<int64_t> after = options_.blocks_after(stage);
    const auto& bottlenecks = stages_[static_cast<size_t>(stage)];
    for (int64_t b = 0; b < std::ssize(bottlenecks); ++b) {
      x = bottlenecks[static_cast<size_t>(b)]->forward(x);
      if (std::find(after.begin(), after.end(), b) != after.end()) x = (block++)->second->forward(x);
    }
    if (stage == 0) x = pooled_clip(x, options_.pool2());
  }
  return x;
}

Tensor VideoResnet::forward(const Tensor& clips, std::optional<at::Generator> generator) {
  Tensor mean = features(clips).mean(at::IntArrayRef{2, 3, 4});
  mean = dropout(mean, options_.dropout, is_training(), {.token_mask = {}, .generator = std::move(generator)});
  const Tensor logits = at::linear(mean, linear_->weight, linear_->bias);
  return logits.scalar_type() == at::kBFloat16 ? logits.to(at::kFloat) : logits;
}

void VideoResnet::load(const std::map<std::string, Tensor>& state, const std::string& who) {
  std::map<std::string, Tensor> own = state;
  std::erase_if(own, [](const auto& entry) { return entry.first.ends_with(".num_batches_tracked"); });
  for (const auto& parameter : named_parameters()) {
    const auto found = own.find(parameter.key());
    if (found == own.end() || parameter->dim() != 5 || found->second.dim() != 4) continue;
    found->second = inflated(found->second, parameter->size(2));
  }
  load_state(who, *this, own, [](const std::string& name) -> std::string {
    if (!name.starts_with("non_local.")) return "";
    return name.substr(0, name.find('.', name.find('.') + 1) + 1);  // "non_local.res4_4."
  });
}

}  // namespace loci
