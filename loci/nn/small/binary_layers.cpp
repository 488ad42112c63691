// Legend: B batch, C channels, K inputs, O outputs.
#include "loci/nn/small/binary_layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>

#include "loci/base/random.h"
#include "loci/nn/initialise.h"
#include "loci/optim/parameter_rules.h"

namespace loci {

using at::Tensor;

namespace {

Tensor signs_of_weight(const Tensor& weight) {
  return straight_through_sign(weight, SignGradient::whole);
}

}  // namespace

NamedParameter binary_parameter(const std::string& name, const Tensor& weight) {
  const int64_t kernel = weight.numel() / (weight.size(0) * weight.size(1));
  const auto fans = static_cast<double>(kernel * (weight.size(0) + weight.size(1)));
  NamedParameter parameter{.name = name, .value = weight, .decay = false};
  parameter.rate = 1 / std::sqrt(1.5 / fans);
  parameter.after_update = clip_to(-1, 1);
  return parameter;
}

BinaryLinear::BinaryLinear(const std::string& name, int64_t inputs, int64_t outputs, uint64_t seed)
    : Module("BinaryLinear") {
  TORCH_CHECK(inputs > 0 && outputs > 0, name, ": inputs and outputs must be at least 1, got ", inputs, " and ",
              outputs);
  weight = register_parameter("weight", uniform_start(seed, name + ".weight", {outputs, inputs}, 1));
}

Tensor BinaryLinear::forward(const Tensor& x) const {
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == weight.size(1) && x.is_floating_point(), "BinaryLinear: x must be [.., ",
              weight.size(1), "] of a floating type, got ", x.sizes(), " of ", x.scalar_type());
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  return at::linear(x.to(weight.scalar_type()), signs_of_weight(weight));
}

BinaryConv2d::BinaryConv2d(const std::string& name, int64_t channels, int64_t outputs, int64_t edge, uint64_t seed,
                           double border)
    : Module("BinaryConv2d"), border_(border) {
  TORCH_CHECK(channels > 0 && outputs > 0 && edge > 0 && edge % 2 == 1, name,
              ": channels and outputs must be at least 1 and the edge odd, got ", channels, ", ", outputs, " and ",
              edge);
  const Tensor start = uniform_start(seed, name + ".weight", {outputs, channels, edge, edge}, 1);
  weight = register_parameter("weight", start.contiguous(at::MemoryFormat::ChannelsLast));
}

Tensor BinaryConv2d::forward(const Tensor& x) const {
  TORCH_CHECK(x.dim() == 4 && x.size(1) == weight.size(1) && x.is_floating_point(), "BinaryConv2d: x must be [B, ",
              weight.size(1), ", height, width] of a floating type, got ", x.sizes(), " of ", x.scalar_type());
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  const int64_t pixels = weight.size(-1) / 2;
  const Tensor bordered = at::constant_pad_nd(x.to(weight.scalar_type()), {pixels, pixels, pixels, pixels}, border_);
  return at::conv2d(bordered.contiguous(at::MemoryFormat::ChannelsLast), signs_of_weight(weight));
}

StraightThroughSign::StraightThroughSign(const std::string& name, bool sampled, uint64_t seed)
    : Module("StraightThroughSign") {
  if (!sampled) return;
  const auto stream = static_cast<int64_t>(stream_of(name));
  key = register_buffer("key", at::tensor({static_cast<int64_t>(seed), stream}));
  drawn = register_buffer("drawn", at::zeros({1}, at::kLong));
}

Tensor StraightThroughSign::forward(const Tensor& x) {
  if (!key.defined() || !is_training()) return straight_through_sign(x);
  Tensor y = sampled_sign(x, key, drawn);
  drawn.add_(x.numel());
  return y;
}

Tensor squared_hinge_loss(const Tensor& score, const Tensor& labels) {
  TORCH_CHECK(
      score.dim() == 2 && labels.dim() == 1 && labels.scalar_type() == at::kLong && labels.size(0) == score.size(0),
      "squared_hinge_loss: score must be [B, O] and labels [B] of Long, got ", score.sizes(), " and ", labels.sizes(),
      " of ", labels.scalar_type());
  const Tensor target = at::full_like(score.detach(), -1).scatter_(1, labels.unsqueeze(1), 1);
  return (1 - target * score).clamp_min(0).square().mean();
}

}  // namespace loci
