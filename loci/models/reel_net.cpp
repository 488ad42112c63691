// Legend: B batch, C channels.
#include "loci/models/reel_net.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>

#include "loci/base/check.h"
#include "loci/models/load_state.h"
#include "loci/nn/initialise.h"

namespace loci {

using at::Tensor;

struct ReelNet::Stage : torch::nn::Module {
  Stage(const std::string& name, const ReelStage& stage, const ReelNetOptions& options, uint64_t seed)
      : Module("Stage"), shape(stage) {
    if (!options.of_reels()) {
      const double deviation = ReelWeight::bound(stage.sizes());
      learned = register_parameter("weight", normal_start(seed, name + ".weight", stage.sizes(), deviation));
    } else if (stage.convolution) {
      const auto layer = std::make_shared<ReelConv2d>(name, stage.inputs, stage.outputs, 3, options.layer(true), seed);
      convolution = register_module("product", layer);
      weight = layer->weight;
    } else {
      const auto layer = std::make_shared<ReelLinear>(name, stage.inputs, stage.outputs, options.layer(false), seed);
      linear = register_module("product", layer);
      weight = layer->weight;
    }
  }

  Tensor product(const Tensor& x) const {
    if (convolution) return convolution->forward(x);
    if (linear) return linear->forward(x);
    return shape.convolution ? at::conv2d(x, learned, {}, 1, 1) : at::linear(x, learned);
  }

  Tensor forward(const Tensor& x) const {
    Tensor y = product(x);
    if (shape.last) return y;
    y = y.relu();
    return shape.pooled ? at::max_pool2d(y, 2) : y;
  }

  ReelStage shape;
  std::shared_ptr<ReelConv2d> convolution;  // one of three
  std::shared_ptr<ReelLinear> linear;
  Tensor learned;
  std::shared_ptr<ReelWeight> weight;  // of the first two
};

ReelNet::ReelNet(const ReelNetOptions& options, uint64_t seed) : Module("ReelNet"), options_(options) {
  options_.check();
  for (const ReelStage& stage : options_.stages()) {
    const std::string name = fmt::format("stage{}", stages_.size());
    stages_.push_back(register_module(name, std::make_shared<Stage>(name, stage, options_, seed)));
  }
}

Tensor ReelNet::forward(const Tensor& images) {
  TORCH_CHECK(images.dim() == 4 && images.size(1) == options_.channels && images.size(2) == options_.height &&
                  images.size(3) == options_.width,
              "ReelNet: images must be [B, ", options_.channels, ", ", options_.height, ", ", options_.width, "], got ",
              images.sizes());
  Tensor x = images;
  for (const auto& stage : stages_) {
    if (!stage->shape.convolution && x.dim() == 4) x = x.flatten(1);
    x = stage->forward(x);
  }
  return x;
}

std::vector<NamedParameter> ReelNet::dense_parameters() {
  std::vector<NamedParameter> list;
  for (size_t i = 0; i < stages_.size(); ++i) {
    const std::string name = fmt::format("stage{}.weight", i);
    list.push_back(stages_[i]->weight ? stages_[i]->weight->parameter(name)
                                      : NamedParameter{.name = name, .value = stages_[i]->learned});
  }
  return list;
}

void ReelNet::load(const std::map<std::string, Tensor>& state, const std::string& who) {
  const auto nothing_new = [](const std::string&) { return std::string(); };
  const std::string scores_of = ".product.weight.scores";
  if (options_.of_reels() || !state.contains("stage0" + scores_of)) {
    load_state(who, *this, state, nothing_new);
    return;
  }
  std::map<std::string, Tensor> found;
  for (const auto& [name, scores] : state) {
    if (!name.ends_with(scores_of)) continue;
    const std::string stage = name.substr(0, name.size() - scores_of.size());
    const auto key = state.find(stage + ".product.weight.key");
    if (key == state.end() || key->second.scalar_type() != at::kLong || key->second.numel() != 2 || scores.dim() < 3) {
      fail(ExitCode::input, who, stage + ".product.weight must have scores [K, ..] and a key of two numbers", "others");
    }
    const int64_t* const numbers = key->second.const_data_ptr<int64_t>();
    const ReelSource source = {static_cast<uint64_t>(numbers[0]), static_cast<uint64_t>(numbers[1]),
                               ReelWeight::bound(scores.sizes().slice(1))};
    found[stage + ".weight"] = std::get<0>(reel_weights(scores, source));
  }
  load_state(who, *this, found, nothing_new);
}

std::vector<double> ReelNet::moved() const {
  std::vector<double> shares;
  for (const auto& stage : stages_) {
    if (stage->weight) shares.push_back(stage->weight->moved());
  }
  return shares;
}

}  // namespace loci
