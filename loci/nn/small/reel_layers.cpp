// Legend: B batch, C channels, K reels.
#include "loci/nn/small/reel_layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>

#include "loci/base/random.h"
#include "loci/nn/batch_normalised.h"
#include "loci/nn/initialise.h"

namespace loci {

using at::Tensor;

namespace {

Tensor reel_key(int64_t seed, const std::string& name) {
  return at::tensor({seed, static_cast<int64_t>(stream_of(name))});
}

// For modules in Python, which have the same values.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def("reel_key(int seed, str name) -> Tensor", reel_key);
}

}  // namespace

ReelWeight::ReelWeight(const std::string& name, const std::vector<int64_t>& sizes, const ReelOptions& options,
                       uint64_t seed)
    : Module("ReelWeight"), name_(name), options_(options) {
  TORCH_CHECK(options.reels >= 1 && options.reels <= kMostReels, name, ": reels must be 1 to ", kMostReels, ", got ",
              options.reels);
  TORCH_CHECK(options.spread >= 0 && std::isfinite(options.spread), name, ": spread must be 0 or more, got ",
              options.spread);
  std::vector<int64_t> all = sizes;
  all.insert(all.begin(), options.reels);
  scores = register_parameter("scores", at::empty(all));
  key = register_buffer("key", reel_key(static_cast<int64_t>(seed), name));
  if (options.choice == ReelChoice::sampled) draws = register_buffer("draws", at::zeros({1}, at::kLong));
  const at::NoGradGuard no_grad;
  scores.copy_(start_scores());
}

double ReelWeight::bound(at::IntArrayRef sizes) {
  double fans = static_cast<double>(sizes[0] + sizes[1]);
  for (const int64_t edge : sizes.slice(2)) fans *= static_cast<double>(edge);
  return std::sqrt(2 / fans);
}

ReelSource ReelWeight::source() const {
  TORCH_CHECK(key.scalar_type() == at::kLong, name_, ": key must stay int64, got ", key.scalar_type());
  const Tensor host = key.cpu();
  const int64_t* const numbers = host.const_data_ptr<int64_t>();
  return {static_cast<uint64_t>(numbers[0]), static_cast<uint64_t>(numbers[1]), bound(scores.sizes().slice(1))};
}

Tensor ReelWeight::start_scores() const {
  const ReelSource from = source();
  const double half = options_.spread * from.bound / 2;
  return uniform_start(from.seed, name_ + ".scores", scores.sizes(), half).add_(half);
}

int64_t ReelWeight::next_draw() {
  return draws.mutable_data_ptr<int64_t>()[0]++;
}

Tensor ReelWeight::forward() {
  if (held_.defined()) return held_weights();
  return std::get<0>(reel_weights(scores, source(), sampling() ? next_draw() : -1, options_.chosen_only));
}

// The choice is made again where something else than update() wrote the scores, such as a checkpoint.
const Tensor& ReelWeight::held_weights() {
  const auto version = static_cast<int64_t>(scores._version());
  if (version == version_ && drawn_ == sampling()) return held_;
  const at::NoGradGuard no_grad;
  const auto [weight, choice] = reel_weights(scores, source(), sampling() ? next_draw() : -1);
  held_.copy_(weight);
  choice_.copy_(choice);
  version_ = version;
  drawn_ = sampling();
  return held_;
}

void ReelWeight::update(const Tensor& gradient, const Tensor& velocity, const SgdUpdate& by) {
  const bool greedy = options_.choice == ReelChoice::greedy;
  reel_step(scores, velocity, held_, choice_, gradient, source(),
            {by.rate, by.momentum, by.decay, by.divisor, by.nesterov, options_.chosen_only, greedy});
  if (greedy) version_ = static_cast<int64_t>(scores._version());
}

NamedParameter ReelWeight::parameter(const std::string& name) {
  if (!held_.defined()) {
    const auto sizes = scores.sizes().slice(1);
    scores.set_requires_grad(false);
    choice_ = at::zeros(sizes, at::kByte);
    held_ = at::zeros(sizes, scores.options()).set_requires_grad(true);
  }
  NamedParameter parameter{.name = name, .value = held_};
  const auto self = std::static_pointer_cast<ReelWeight>(shared_from_this());
  parameter.own = {scores, [self](const Tensor& gradient, const Tensor& velocity, const SgdUpdate& by) {
                     self->update(gradient, velocity, by);
                   }};
  return parameter;
}

Tensor ReelWeight::found() const {
  return std::get<0>(reel_weights(scores.detach(), source()));
}

Tensor ReelWeight::values() const {
  return reel_values(scores.detach().select(0, 0), options_.reels, source());
}

double ReelWeight::moved() const {
  const Tensor now = std::get<1>(reel_weights(scores.detach(), source()));
  return std::get<1>(reel_weights(start_scores(), source())).ne(now).to(at::kDouble).mean().item<double>();
}

ReelLinear::ReelLinear(const std::string& name, int64_t inputs, int64_t outputs, const ReelOptions& options,
                       uint64_t seed)
    : Module("ReelLinear") {
  TORCH_CHECK(inputs > 0 && outputs > 0, name, ": inputs and outputs must be at least 1, got ", inputs, " and ",
              outputs);
  weight = register_module("weight",
                           std::make_shared<ReelWeight>(name + ".weight", std::vector{outputs, inputs}, options, seed));
}

Tensor ReelLinear::forward(const Tensor& x) {
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == weight->scores.size(2) && x.is_floating_point(),
              "ReelLinear: x must be [.., ", weight->scores.size(2), "] of a floating type, got ", x.sizes(), " of ",
              x.scalar_type());
  const Tensor w = weight->forward();
  return at::linear(as_parameter(x, w), w);
}

torch::nn::Linear ReelLinear::freeze() const {
  const Tensor found = weight->found();
  torch::nn::Linear plain(torch::nn::LinearOptions(found.size(1), found.size(0)).bias(false));
  const at::NoGradGuard no_grad;
  plain->weight.copy_(found);
  return plain;
}

ReelConv2d::ReelConv2d(const std::string& name, int64_t channels, int64_t outputs, int64_t edge,
                       const ReelOptions& options, uint64_t seed)
    : Module("ReelConv2d") {
  TORCH_CHECK(channels > 0 && outputs > 0 && edge > 0 && edge % 2 == 1, name,
              ": channels and outputs must be at least 1 and the edge odd, got ", channels, ", ", outputs, " and ",
              edge);
  weight = register_module("weight", std::make_shared<ReelWeight>(
                                         name + ".weight", std::vector{outputs, channels, edge, edge}, options, seed));
}

Tensor ReelConv2d::forward(const Tensor& x) {
  TORCH_CHECK(x.dim() == 4 && x.size(1) == weight->scores.size(2) && x.is_floating_point(),
              "ReelConv2d: x must be [B, ", weight->scores.size(2), ", height, width] of a floating type, got ",
              x.sizes(), " of ", x.scalar_type());
  const Tensor w = weight->forward();
  return at::conv2d(as_parameter(x, w), w, {}, 1, w.size(-1) / 2);
}

torch::nn::Conv2d ReelConv2d::freeze() const {
  const Tensor found = weight->found();
  const int64_t edge = found.size(-1);
  torch::nn::Conv2d plain(torch::nn::Conv2dOptions(found.size(1), found.size(0), edge).padding(edge / 2).bias(false));
  const at::NoGradGuard no_grad;
  plain->weight.copy_(found);
  return plain;
}

}  // namespace loci
