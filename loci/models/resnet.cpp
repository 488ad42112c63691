// Legend: B batch, c channels of a stage.
#include "loci/models/resnet.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/modules/container/modulelist.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "loci/base/check.h"
#include "loci/models/load_state.h"
#include "loci/nn/channel_norm.h"
#include "loci/nn/initialise.h"
#include "loci/nn/memory/side_memory.h"

namespace loci {
namespace {

using at::Tensor;

constexpr at::MemoryFormat kChannelsLast = at::MemoryFormat::ChannelsLast;

double he_deviation(int64_t inputs) {
  return std::sqrt(2.0 / static_cast<double>(inputs));
}

}  // namespace

// 3x3, "same" padding, no bias.
struct Resnet::Convolution : torch::nn::Module {
  Convolution(const std::string& name, int64_t inputs, int64_t outputs, int64_t step, uint64_t seed)
      : Module("Convolution"), stride(step) {
    const Tensor start = normal_start(seed, name + ".weight", {outputs, inputs, 3, 3}, he_deviation(9 * inputs));
    weight = register_parameter("weight", start.contiguous(kChannelsLast));
  }
  Tensor forward(const Tensor& x) const { return at::conv2d(x, weight, {}, stride, /*padding=*/1); }

  Tensor weight;  // [outputs, inputs, 3, 3]
  int64_t stride;
};

struct Resnet::Linear : torch::nn::Module {
  Linear(int64_t inputs, int64_t outputs, uint64_t seed) : Module("Linear") {
    weight = register_parameter("weight", normal_start(seed, "linear.weight", {outputs, inputs}, he_deviation(inputs)));
    bias = register_parameter("bias", at::zeros({outputs}));
  }

  Tensor weight, bias;  // [classes, c], [classes]
};

struct Resnet::Block : torch::nn::Module {
  Block() : Module("Block") {}

  // The norms' outputs are nobody else's, so that sum and relu are done in place.
  Tensor forward(const Tensor& x) const {
    const Tensor y = bn1->forward(conv1->forward(x)).relu_();
    const Tensor output = bn2->forward(map ? map->forward(y) : conv2->forward(y)).add_(shortcut(x)).relu_();
    const Tensor remembered = side ? side->forward(output) : output;
    return non_local ? non_local->forward(remembered) : remembered;
  }
  Tensor shortcut(const Tensor& x) const {
    if (conv1->stride == 1) return x;
    const int64_t added = conv1->weight.size(0) - conv1->weight.size(1), before = added / 2;
    return at::constant_pad_nd(x.slice(2, 0, c10::nullopt, 2).slice(3, 0, c10::nullopt, 2),
                               {0, 0, 0, 0, before, added - before});
  }

  std::shared_ptr<Convolution> conv1, conv2;  // conv2: none where a memory is in its place
  std::shared_ptr<ChannelNorm> bn1, bn2;
  std::shared_ptr<MemoryMap> map;    // in the place of conv2
  std::shared_ptr<SideMemory> side;  // after the block
  std::shared_ptr<NonLocal> non_local;
};

Resnet::Resnet(ResnetOptions options, uint64_t seed, const TableMaker& tables)
    : torch::nn::Module("Resnet"), options_(std::move(options)) {
  check_resnet_options(options_);
  stem_ = register_module("conv1",
                          std::make_shared<Convolution>("conv1", options_.channels, options_.width, /*step=*/1, seed));
  stem_norm_ = register_module("bn1", std::make_shared<ChannelNorm>(options_.width));
  const auto counts = options_.blocks();
  for (int64_t stage = 0; stage < ResnetOptions::kStages; ++stage) {
    const std::string name = fmt::format("layer{}", stage + 1);
    torch::nn::ModuleList list;
    for (int64_t number = 0; number < counts[static_cast<size_t>(stage)]; ++number) {
      blocks_.push_back(make_block(fmt::format("{}.{}", name, number), stage, number, seed, tables));
      list->push_back(blocks_.back());
    }
    register_module(name, list.ptr());
  }
  if (options_.classes == 0) return;
  linear_ = register_module(
      "linear", std::make_shared<Linear>(options_.stage_channels(ResnetOptions::kStages - 1), options_.classes, seed));
}

std::shared_ptr<Resnet::Block> Resnet::make_block(const std::string& name, int64_t stage, int64_t number, uint64_t seed,
                                                  const TableMaker& tables) {
  const int64_t channels = options_.stage_channels(stage);
  const bool reduces = stage > 0 && number == 0;
  const bool has_memory =
      options_.has_memory && options_.memory.stage == stage + 1 && options_.memory_block() == number;
  auto block = std::make_shared<Block>();
  block->conv1 =
      block->register_module("conv1", std::make_shared<Convolution>(name + ".conv1", reduces ? channels / 2 : channels,
                                                                    channels, reduces ? 2 : 1, seed));
  block->bn1 = block->register_module("bn1", std::make_shared<ChannelNorm>(channels));
  if (!has_memory || options_.memory.placement != ResnetPlacement::replace3x3) {
    block->conv2 =
        block->register_module("conv2", std::make_shared<Convolution>(name + ".conv2", channels, channels, 1, seed));
  }
  block->bn2 = block->register_module("bn2", std::make_shared<ChannelNorm>(channels));
  if (has_memory) add_memory(*block, name + ".memory", channels, seed, tables);
  const std::vector<int64_t> relating = options_.non_local_after(stage);
  if (std::find(relating.begin(), relating.end(), number) != relating.end()) {
    block->non_local = block->register_module(
        "non_local", std::make_shared<NonLocal>(name + ".non_local", options_.non_local_options(stage), seed));
    non_local_.emplace_back(name, block->non_local);
  }
  return block;
}

void Resnet::add_memory(Block& block, const std::string& name, int64_t channels, uint64_t seed,
                        const TableMaker& tables) {
  const ResnetMemoryOptions& m = options_.memory;
  if (m.placement == ResnetPlacement::replace3x3) {
    block.map = block.register_module("memory", m.make_map(name, channels, 2, channels, seed, tables));
    memory_ = block.map->memory;
  } else {
    const TablePtr table = m.make_table(name, channels, seed, tables);
    block.side = block.register_module("memory", std::make_shared<SideMemory>(name, m.map(channels), table, seed));
    memory_ = block.side->map->memory;
    m.freeze(*memory_);
  }
  memory_layer_ = std::ssize(blocks_);
}

Tensor Resnet::forward(const Tensor& images) {
  TORCH_CHECK(images.dim() == 4 && images.size(1) == options_.channels, "Resnet: images must be [B, ",
              options_.channels, ", height, width], got ", images.sizes());
  // A map of one channel has either layout, and the convolution may choose the other.
  Tensor x = stem_->forward(images.contiguous(kChannelsLast)).contiguous(kChannelsLast);
  x = stem_norm_->forward(x).relu_();
  for (const auto& block : blocks_) x = block->forward(x);
  const Tensor mean = x.mean(at::IntArrayRef{2, 3});
  const Tensor logits = linear_ ? at::linear(mean, linear_->weight, linear_->bias) : mean;
  return logits.scalar_type() == at::kBFloat16 ? logits.to(at::kFloat) : logits;
}

std::map<std::string, size_t> Resnet::added_blocks() const {
  std::map<std::string, size_t> result;
  const auto counts = options_.blocks();
  const int64_t own = (options_.depth - 2) / 6;  // of each stage
  size_t at = 0;
  for (size_t stage = 0; stage < counts.size(); ++stage) {
    for (int64_t number = 0; number < counts[stage]; ++number, ++at) {
      if (number >= own) result.emplace(fmt::format("layer{}.{}", stage + 1, number), at);
    }
  }
  return result;
}

void Resnet::load(const std::map<std::string, Tensor>& state, const std::string& who) {
  std::map<std::string, Tensor> own = state;
  std::erase_if(own, [](const auto& entry) { return entry.first.ends_with(".num_batches_tracked"); });
  const std::map<std::string, size_t> added = added_blocks();
  load_state(who, *this, own, [&added](const std::string& name) -> std::string {
    for (const std::string_view part : {".memory.", ".non_local."}) {
      if (const size_t at = name.find(part); at != std::string::npos) return name.substr(0, at + part.size());
    }
    const std::string block = name.substr(0, name.find('.', name.find('.') + 1));  // "layer3.2" of layer3.2.bn1.weight
    return added.contains(block) ? block : "";
  });
  const at::NoGradGuard guard;
  for (const auto& [name, at] : added) {
    if (!own.contains(name + ".bn2.weight")) blocks_[at]->bn2->weight.zero_();
  }
}

}  // namespace loci
