// Legend: B batch, T frames, C channels, I channels of a message, h w positions of a map.
#include "loci/models/pair_net.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "loci/data/procedural/pair_shapes.h"
#include "loci/nn/batch_normalised.h"
#include "loci/nn/initialise.h"
#include "loci/nn/relation/non_local.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kPairClasses = 2;
constexpr int64_t kPairEdge = 5;                                // of the first kernel
constexpr int64_t kPairMapSide = PairShapesOptions::kSide / 2;  // h = w
constexpr int64_t kPairPositions = kPairMapSide * kPairMapSide;

Tensor he_start(uint64_t seed, const std::string& name, const std::vector<int64_t>& sizes) {
  int64_t inputs = 1;
  for (size_t i = 1; i < sizes.size(); ++i) inputs *= sizes[i];
  return normal_start(seed, name, sizes, std::sqrt(2.0 / static_cast<double>(inputs)));
}

// Frames [B T, C, h, w] as clips [B, C, T, h, w] and back, channels last and without a copy.
Tensor clips_of(const Tensor& frames, int64_t T) {
  return frames.permute({0, 2, 3, 1}).unflatten(0, {frames.size(0) / T, T}).permute({0, 4, 1, 2, 3});
}
Tensor frames_of(const Tensor& clips) {
  return clips.permute({0, 2, 3, 4, 1}).flatten(0, 1).permute({0, 3, 1, 2});
}

}  // namespace

void PairNetOptions::fields(ConfigFields& f) {
  f.field("width", width, "channels of the maps", {.minimum = 1, .maximum = 4096});
  f.choice<PairMiddle>("middle", middle, "the layer that is compared: between the 3x3 and the 1x1 convolution",
                       {{"none", PairMiddle::none},
                        {"residual", PairMiddle::residual},
                        {"uniform", PairMiddle::uniform},
                        {"non_local", PairMiddle::non_local}});
  f.when(middle == PairMiddle::residual, "model.middle is \"residual\"", [&] {
    f.field("residual_width", residual_width, "channels between its two convolutions", {.minimum = 1, .maximum = 4096});
  });
  f.when(middle == PairMiddle::uniform, "model.middle is \"uniform\"",
         [&] { f.field("inner", inner, "channels of the message", {.minimum = 1, .maximum = 4096}); });
  f.when(middle == PairMiddle::non_local, "model.middle is \"non_local\"", [&] { f.section("non_local", non_local); });
}

NonLocalOptions PairNetOptions::non_local_of_map() const {
  NonLocalOptions options = non_local;
  options.channels = width;
  options.dimensions = frames > 1 ? 3 : 2;
  return options;
}

MapExtents PairNetOptions::map() const {
  return {frames, kPairMapSide, kPairMapSide};
}

void PairNetOptions::check() const {
  if (middle != PairMiddle::non_local) return;
  const NonLocalOptions options = non_local_of_map();
  options.check();
  options.windows(map());
}

int64_t PairNetOptions::parameters() const {
  const int64_t convolutions = width * (kPairEdge * kPairEdge + 9 * width + width), norms = 3 * 2 * width;
  int64_t count = convolutions + norms + (width + 1) * kPairClasses;
  switch (middle) {
    case PairMiddle::none:
      break;
    case PairMiddle::residual:
      count += residual_width * ((frames > 1 ? 27 : 9) * width + 2) + width * (residual_width + 2);
      break;
    case PairMiddle::uniform:
      count += inner * (width + 1) + width * (inner + 2);
      break;
    case PairMiddle::non_local:
      count += count_non_local_parameters(non_local_of_map());
      break;
  }
  return count;
}

int64_t PairNetOptions::multiply_adds() const {
  const int64_t positions = frames * kPairPositions;
  int64_t count = positions * width * (kPairEdge * kPairEdge + 9 * width + width) + width * kPairClasses;
  switch (middle) {
    case PairMiddle::none:
      break;
    case PairMiddle::residual:
      count += positions * residual_width * width * ((frames > 1 ? 27 : 9) + 1);
      break;
    case PairMiddle::uniform:
      count += 2 * width * inner;
      break;
    case PairMiddle::non_local:
      count += non_local_multiply_adds(non_local_of_map(), map());
      break;
  }
  return count;
}

double PairNetOptions::kept_numbers() const {
  double of_position = 4 + 3 * 2 * static_cast<double>(width);  // four pixels, three convolutions and norms
  if (middle == PairMiddle::residual) of_position += static_cast<double>(2 * residual_width + 3 * width);
  if (middle == PairMiddle::uniform) of_position += static_cast<double>(width);
  if (middle == PairMiddle::non_local) {
    // Pooled x, theta, phi, g, y, the weights of maps as small as these, W_z y, its norm and the sum.
    const MapExtents keys = non_local_of_map().windows(map()).second;
    const int64_t I = non_local_of_map().inner_width();
    of_position += static_cast<double>(4 * width + 4 * I + keys[0] * keys[1] * keys[2]);
  }
  return of_position * static_cast<double>(frames * kPairPositions);
}

// A convolution without a bias, "same" padding, and a norm.
struct PairNet::Layer : torch::nn::Module {
  Layer(const std::string& name, const std::vector<int64_t>& sizes, int64_t step, uint64_t seed)
      : Module("Layer"), stride(sizes.size() - 2, step), padding(sizes.size() - 2, sizes.back() / 2) {
    const auto layout = sizes.size() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
    weight = register_parameter("weight", he_start(seed, name + ".weight", sizes).contiguous(layout));
    norm.gain = register_parameter("gain", at::ones({sizes[0]}));
    norm.bias = register_parameter("bias", at::zeros({sizes[0]}));
    norm.running_mean = register_buffer("running_mean", at::zeros({sizes[0]}));
    norm.running_variance = register_buffer("running_variance", at::ones({sizes[0]}));
  }
  Tensor forward(const Tensor& x) const {
    // A map of one channel has either layout, and the convolution may choose the other.
    const Tensor y = at::convolution(x, weight, {}, stride, padding, std::vector<int64_t>(stride.size(), 1),
                                     /*transposed=*/false, std::vector<int64_t>(stride.size(), 0), /*groups=*/1)
                         .contiguous(x.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast);
    return at::batch_norm(y, norm.gain, norm.bias, norm.running_mean, norm.running_variance, is_training(),
                          kNormMomentum, kNormEpsilon, /*cudnn_enabled=*/false);
  }

  std::vector<int64_t> stride, padding;
  Tensor weight;     // [outputs, inputs, k, k] or [outputs, inputs, k, k, k]
  NormTensors norm;  // [outputs]
};

// W_g is linear, so that the mean over positions is taken before it.
struct PairNet::UniformMessage : torch::nn::Module {
  UniformMessage(const std::string& name, int64_t width, int64_t inner, uint64_t seed) : Module("UniformMessage") {
    g_weight = register_parameter("g_weight", he_start(seed, name + ".g_weight", {inner, width}));
    g_bias = register_parameter("g_bias", at::zeros({inner}));
    output_weight = register_parameter("output_weight", he_start(seed, name + ".output_weight", {width, inner}));
    norm.gain = register_parameter("gain", at::zeros({width}));
    norm.bias = register_parameter("bias", at::zeros({width}));
    norm.running_mean = register_buffer("running_mean", at::zeros({width}));
    norm.running_variance = register_buffer("running_variance", at::ones({width}));
  }
  Tensor forward(const Tensor& x) const {
    std::vector<int64_t> positions, sizes = {x.size(0), x.size(1)};
    for (int64_t d = 2; d < x.dim(); ++d) {
      positions.push_back(d);
      sizes.push_back(1);
    }
    const Tensor y = at::linear(at::linear(x.mean(positions), g_weight, g_bias), output_weight);  // [B, C]
    return x + batch_normalised(y, norm, is_training()).view(sizes);
  }

  Tensor g_weight, g_bias;  // [I, C], [I]
  Tensor output_weight;     // W_z [C, I]
  NormTensors norm;         // [C]
};

std::shared_ptr<PairNet::Layer> PairNet::add_layer(const std::string& name, const std::vector<int64_t>& sizes,
                                                   int64_t stride, uint64_t seed) {
  return register_module(name, std::make_shared<Layer>(name, sizes, stride, seed));
}

PairNet::PairNet(const PairNetOptions& options, uint64_t seed) : torch::nn::Module("PairNet"), options_(options) {
  options.check();
  const int64_t C = options.width, R = options.residual_width;
  const bool clips = options.frames > 1;
  conv1_ = add_layer("conv1", {C, 1, kPairEdge, kPairEdge}, /*stride=*/2, seed);
  conv2_ = add_layer("conv2", {C, C, 3, 3}, /*stride=*/1, seed);
  if (options.middle == PairMiddle::residual) {
    const std::vector<int64_t> wide = clips ? std::vector<int64_t>{R, C, 3, 3, 3} : std::vector<int64_t>{R, C, 3, 3};
    const std::vector<int64_t> narrow = clips ? std::vector<int64_t>{C, R, 1, 1, 1} : std::vector<int64_t>{C, R, 1, 1};
    residual1_ = add_layer("residual1", wide, 1, seed);
    residual2_ = add_layer("residual2", narrow, 1, seed);
    const at::NoGradGuard guard;
    residual2_->norm.gain.zero_();
  }
  if (options.middle == PairMiddle::uniform) {
    uniform_ = register_module("uniform", std::make_shared<UniformMessage>("uniform", C, options.inner, seed));
  }
  if (options.middle == PairMiddle::non_local) {
    non_local_ =
        register_module("non_local", std::make_shared<NonLocal>("non_local", options.non_local_of_map(), seed));
  }
  conv3_ = add_layer("conv3", {C, C, 1, 1}, 1, seed);
  linear_weight_ = register_parameter("linear_weight", he_start(seed, "linear_weight", {kPairClasses, C}));
  linear_bias_ = register_parameter("linear_bias", at::zeros({kPairClasses}));
}

NamedNonLocals PairNet::non_local() const {
  if (!non_local_) return {};
  return {{"non_local", non_local_}};
}

Tensor PairNet::middle(const Tensor& x) const {
  if (residual1_) return x + residual2_->forward(residual1_->forward(x).relu_());
  if (uniform_) return uniform_->forward(x);
  if (non_local_) return non_local_->forward(x);
  return x;
}

Tensor PairNet::forward(const Tensor& frames) {
  const int64_t B = frames.size(0), T = options_.frames, side = PairShapesOptions::kSide;
  TORCH_CHECK(frames.dim() == 4 && frames.size(1) == T && frames.size(2) == side && frames.size(3) == side,
              "PairNet: frames must be [B, ", T, ", ", side, ", ", side, "], got ", frames.sizes());
  Tensor x = frames.reshape({B * T, 1, side, side});
  x = conv2_->forward(conv1_->forward(x).relu_()).relu_();
  x = T > 1 ? frames_of(middle(clips_of(x, T))) : middle(x);
  x = conv3_->forward(x).relu_();
  const Tensor mean = x.mean(at::IntArrayRef{2, 3}).unflatten(0, {B, T}).mean(1);
  const Tensor logits = at::linear(mean, linear_weight_, linear_bias_);
  return logits.scalar_type() == at::kBFloat16 ? logits.to(at::kFloat) : logits;
}

}  // namespace loci
