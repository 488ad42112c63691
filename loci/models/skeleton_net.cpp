// Legend: B batch, T frames, J joints, C channels.
#include "loci/models/skeleton_net.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "loci/base/check.h"
#include "loci/nn/channel_norm.h"
#include "loci/nn/dropout.h"
#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kSkeletonKernel = 5;  // frames
constexpr int64_t kCoordinates = 2;

// Frames behind a convolution of stride 2.
int64_t half_of(int64_t frames) {
  return (frames + 1) / 2;
}

}  // namespace

void SkeletonNetOptions::fields(ConfigFields& f) {
  f.field("width", width, "channels of the maps", {.minimum = 1, .maximum = 4096});
  f.choice<SkeletonMiddle>("middle", middle, "the layer that is compared: between the second and third convolution",
                           {{"none", SkeletonMiddle::none},
                            {"residual", SkeletonMiddle::residual},
                            {"non_local", SkeletonMiddle::non_local}});
  f.when(middle == SkeletonMiddle::residual, "model.middle is \"residual\"", [&] {
    f.field("residual_width", residual_width, "channels between its two convolutions", {.minimum = 1, .maximum = 4096});
  });
  f.when(middle == SkeletonMiddle::non_local, "model.middle is \"non_local\"",
         [&] { f.section("non_local", non_local); });
  f.field("dropout", dropout, "share of the last mean that training drops", {.minimum = 0, .maximum = 0.99});
}

NonLocalOptions SkeletonNetOptions::non_local_of_map() const {
  NonLocalOptions options = non_local;
  options.channels = width;
  options.dimensions = 3;
  return options;
}

MapExtents SkeletonNetOptions::map() const {
  return {half_of(frames), 1, joints};
}

void SkeletonNetOptions::check() const {
  const auto at_least_1 = [](const char* what, int64_t value) {
    if (value < 1)
      fail(ExitCode::usage, "SkeletonNet", fmt::format("{} must be at least 1", what), fmt::to_string(value));
  };
  at_least_1("width", width);
  at_least_1("frames", frames);
  at_least_1("joints", joints);
  at_least_1("classes", classes);
  if (middle != SkeletonMiddle::non_local) return;
  non_local_of_map().check();
  non_local_of_map().windows(map());
}

int64_t SkeletonNetOptions::parameters() const {
  int64_t count = width * kSkeletonKernel * (kCoordinates + 2 * width) + 3 * 2 * width + width * joints;
  count += (width * joints + 1) * classes;
  if (middle == SkeletonMiddle::residual) {
    count += residual_width * (9 * width + 2) + width * (residual_width + 2);
  }
  if (middle == SkeletonMiddle::non_local) count += count_non_local_parameters(non_local_of_map());
  return count;
}

int64_t SkeletonNetOptions::multiply_adds() const {
  const int64_t half = half_of(frames), quarter = half_of(half);
  int64_t count = width * kSkeletonKernel * joints * (frames * kCoordinates + (half + quarter) * width);
  count += width * joints * classes;
  if (middle == SkeletonMiddle::residual) count += half * joints * residual_width * width * (9 + 1);
  if (middle == SkeletonMiddle::non_local) count += non_local_multiply_adds(non_local_of_map(), map());
  return count;
}

double SkeletonNetOptions::kept_numbers() const {
  const int64_t half = half_of(frames);
  int64_t numbers = joints * (frames * (kCoordinates + 3 * width) + (half + half_of(half)) * 2 * width);
  if (middle == SkeletonMiddle::residual) numbers += half * joints * (2 * residual_width + 3 * width);
  if (middle == SkeletonMiddle::non_local) {
    numbers += half * joints * (4 * width + 4 * non_local_of_map().inner_width());
  }
  return static_cast<double>(numbers);
}

// A convolution without a bias, "same" padding, stride over frames, and a norm.
struct SkeletonNet::Layer : torch::nn::Module {
  Layer(const std::string& name, int64_t inputs, int64_t outputs, const MapExtents& kernel, int64_t step, uint64_t seed)
      : Module("Layer"), stride({step, 1, 1}), padding({kernel[0] / 2, kernel[1] / 2, kernel[2] / 2}) {
    const int64_t numbers = inputs * kernel[0] * kernel[1] * kernel[2];
    weight = register_parameter("weight",
                                normal_start(seed, name + ".weight", {outputs, inputs, kernel[0], kernel[1], kernel[2]},
                                             std::sqrt(2.0 / static_cast<double>(numbers)))
                                    .contiguous(at::MemoryFormat::ChannelsLast3d));
    norm = register_module("norm", std::make_shared<ChannelNorm>(outputs));
  }
  Tensor forward(const Tensor& x) const {
    // A map of one channel or one position has either layout, and the convolution may choose the other.
    return norm->forward(at::conv3d(x, weight, {}, stride, padding).contiguous(at::MemoryFormat::ChannelsLast3d));
  }

  MapExtents stride, padding;
  Tensor weight;  // [outputs, inputs, kernel]
  std::shared_ptr<ChannelNorm> norm;
};

std::shared_ptr<SkeletonNet::Layer> SkeletonNet::add_layer(const std::string& name, int64_t inputs, int64_t outputs,
                                                           const MapExtents& kernel, int64_t stride, uint64_t seed) {
  return register_module(name, std::make_shared<Layer>(name, inputs, outputs, kernel, stride, seed));
}

SkeletonNet::SkeletonNet(const SkeletonNetOptions& options, uint64_t seed)
    : torch::nn::Module("SkeletonNet"), options_(options) {
  options.check();
  const int64_t C = options.width, J = options.joints;
  const MapExtents over_time = {kSkeletonKernel, 1, 1};
  conv1_ = add_layer("conv1", kCoordinates, C, over_time, 1, seed);
  joint_bias_ = register_parameter("joint_bias", normal_start(seed, "joint_bias", {C, 1, 1, J}, 0.5));
  conv2_ = add_layer("conv2", C, C, over_time, 2, seed);
  if (options.middle == SkeletonMiddle::residual) {
    residual1_ = add_layer("residual1", C, options.residual_width, {3, 1, 3}, 1, seed);
    residual2_ = add_layer("residual2", options.residual_width, C, {1, 1, 1}, 1, seed);
    const at::NoGradGuard guard;
    residual2_->norm->weight.zero_();
  }
  if (options.middle == SkeletonMiddle::non_local) {
    non_local_ =
        register_module("non_local", std::make_shared<NonLocal>("non_local", options.non_local_of_map(), seed));
  }
  conv3_ = add_layer("conv3", C, C, over_time, 2, seed);
  linear_weight_ =
      register_parameter("linear_weight", normal_start(seed, "linear_weight", {options.classes, C * J}, 0.01));
  linear_bias_ = register_parameter("linear_bias", at::zeros({options.classes}));
}

NamedNonLocals SkeletonNet::non_local() const {
  if (!non_local_) return {};
  return {{"non_local", non_local_}};
}

Tensor SkeletonNet::forward(const Tensor& maps, std::optional<at::Generator> generator) {
  TORCH_CHECK(maps.dim() == 4 && maps.size(1) == kCoordinates && maps.size(2) == options_.frames &&
                  maps.size(3) == options_.joints,
              "SkeletonNet: maps must be [B, 2, ", options_.frames, ", ", options_.joints, "], got ", maps.sizes());
  Tensor x = maps.unsqueeze(3).contiguous(at::MemoryFormat::ChannelsLast3d);  // [B, 2, T, 1, J]
  x = (conv1_->forward(x) + joint_bias_).relu_();
  x = conv2_->forward(x).relu_();
  if (residual1_) x = x + residual2_->forward(residual1_->forward(x).relu_());
  if (non_local_) x = non_local_->forward(x);
  x = conv3_->forward(x).relu_();
  const Tensor mean = x.mean(2).flatten(1);  // [B, C J]
  const Tensor kept =
      dropout(mean, options_.dropout, is_training(), {.token_mask = {}, .generator = std::move(generator)});
  const Tensor logits = at::linear(kept, linear_weight_, linear_bias_);
  return logits.scalar_type() == at::kBFloat16 ? logits.to(at::kFloat) : logits;
}

}  // namespace loci
