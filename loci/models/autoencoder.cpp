// Legend: B batch, C channels of the images, d width of the code.
#include "loci/models/autoencoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <cmath>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kEdge = 4;                         // of the kernels that halve or double a map
constexpr int64_t kFromQuarter = kEdge * kEdge / 4;  // kernel positions that reach one output of a transposed one

// Channels of the encoder's maps, the images first.
std::array<int64_t, 4> encoder_channels(const AutoencoderOptions& o) {
  return {o.channels, o.width, 2 * o.width, 2 * o.width};
}

// Of the decoder's maps, the code first.
std::array<int64_t, 4> decoder_channels(const AutoencoderOptions& o) {
  return {o.code_width, 2 * o.width, o.width, o.channels};
}

}  // namespace

void AutoencoderOptions::fields(ConfigFields& f) {
  f.field("width", width, "channels of the first convolution, half of those of the others",
          {.minimum = 1, .maximum = 1024});
  f.field("code_width", code_width, "numbers of the code at each of its positions", {.minimum = 1, .maximum = 4096});
  f.optional_section("memory", has_memory, memory);
  f.optional_section("quantiser", has_quantiser, quantiser);
}

void AutoencoderOptions::check() const {
  if (has_memory && has_quantiser) {
    fail(ExitCode::usage, "model", "there must be one bottleneck, [model.memory] or [model.quantiser]", "both");
  }
  if (has_memory) memory.check();
}

std::pair<int64_t, int64_t> AutoencoderOptions::parameters() const {
  check();
  const auto down = encoder_channels(*this), up = decoder_channels(*this);
  int64_t dense = 0;
  for (size_t i = 1; i < down.size(); ++i) dense += kEdge * kEdge * down[i - 1] * down[i] + 2 * down[i];
  for (size_t i = 1; i < up.size(); ++i) dense += kEdge * kEdge * up[i - 1] * up[i];
  dense += 2 * (up[1] + up[2]) + up[3];
  if (!has_memory) return {dense + (down.back() + 1) * code_width, 0};
  return {checked_sum("model", "its size", dense, memory.parameters(down.back())),
          checked_product("model", "its size", memory.rows, code_width)};
}

int64_t AutoencoderOptions::multiply_adds(int64_t image_height, int64_t image_width) const {
  const auto down = encoder_channels(*this), up = decoder_channels(*this);
  int64_t positions = image_height * image_width, sum = 0;
  for (size_t i = 1; i < down.size(); ++i) {
    positions /= 4;
    sum += positions * kEdge * kEdge * down[i - 1] * down[i];
  }
  int64_t of_code = has_memory ? memory.multiply_adds(down.back(), code_width) : down.back() * code_width;
  if (has_quantiser) of_code += quantiser.codes * code_width;
  sum = checked_sum("model", "its size", sum, checked_product("model", "its size", positions, of_code));
  for (size_t i = 1; i < up.size(); ++i) {
    positions *= 4;
    sum += positions * kFromQuarter * up[i - 1] * up[i];
  }
  return sum;
}

// A convolution with batch norm and relu after it, or with a bias alone.
struct Autoencoder::Layer : torch::nn::Module {
  enum class Kind { down, up, same };
  Layer(const std::string& name, Kind what, int64_t inputs, int64_t outputs, bool with_norm, uint64_t seed)
      : Module("Layer"), kind(what), normed(with_norm) {
    const int64_t edge = kind == Kind::same ? 1 : kEdge;
    const int64_t reached = kind == Kind::up ? kFromQuarter * inputs : edge * edge * inputs;
    const int64_t first = kind == Kind::up ? inputs : outputs, second = kind == Kind::up ? outputs : inputs;
    weight = register_parameter("weight", normal_start(seed, name + ".weight", {first, second, edge, edge},
                                                       std::sqrt(2.0 / static_cast<double>(reached))));
    bias = register_parameter("bias", at::zeros({outputs}));
    if (!normed) return;
    gain = register_parameter("gain", at::ones({outputs}));
    running_mean = register_buffer("running_mean", at::zeros({outputs}));
    running_variance = register_buffer("running_variance", at::ones({outputs}));
  }

  Tensor forward(const Tensor& x) const {
    const Tensor added = normed ? Tensor() : bias;
    Tensor y;
    switch (kind) {
      case Kind::down:
        y = at::conv2d(x, weight, added, /*stride=*/2, /*padding=*/1);
        break;
      case Kind::up:
        y = at::conv_transpose2d(x, weight, added, /*stride=*/2, /*padding=*/1);
        break;
      case Kind::same:
        y = at::conv2d(x, weight, added);
        break;
    }
    if (!normed) return y;
    return at::batch_norm(y, gain, bias, running_mean, running_variance, is_training(), kNormMomentum, kNormEpsilon,
                          /*cudnn_enabled=*/false)
        .relu_();
  }

  Kind kind;
  bool normed;
  Tensor weight, bias, gain, running_mean, running_variance;  // bias: of the norm where there is one
};

std::shared_ptr<Autoencoder::Layer> Autoencoder::add_layer(const std::string& name, std::shared_ptr<Layer> layer) {
  return register_module(name, std::move(layer));
}

Autoencoder::Autoencoder(AutoencoderOptions options, uint64_t seed, const TableMaker& tables)
    : torch::nn::Module("Autoencoder"), options_(std::move(options)) {
  options_.check();
  const auto down = encoder_channels(options_), up = decoder_channels(options_);
  const int64_t d = options_.code_width;
  for (size_t i = 1; i < down.size(); ++i) {
    const std::string name = fmt::format("encoder{}", i);
    encoder_.push_back(
        add_layer(name, std::make_shared<Layer>(name, Layer::Kind::down, down[i - 1], down[i], /*norm=*/true, seed)));
  }
  if (options_.has_memory) {
    map_ = register_module("memory", options_.memory.make_map("memory", down.back(), 2, d, seed, tables));
  } else {
    to_code_ =
        add_layer("code", std::make_shared<Layer>("code", Layer::Kind::same, down.back(), d, /*norm=*/false, seed));
  }
  if (options_.has_quantiser) {
    quantiser_ =
        register_module("quantiser", std::make_shared<VectorQuantiser>("quantiser", options_.quantiser, d, seed));
  }
  for (size_t i = 1; i < up.size(); ++i) {
    const std::string name = fmt::format("decoder{}", i);
    decoder_.push_back(
        add_layer(name, std::make_shared<Layer>(name, Layer::Kind::up, up[i - 1], up[i], i + 1 < up.size(), seed)));
  }
}

Reconstruction Autoencoder::forward(const Tensor& images) {
  constexpr int64_t reduction = AutoencoderOptions::kReduction;
  TORCH_CHECK(images.dim() == 4 && images.size(1) == options_.channels && images.size(2) % reduction == 0 &&
                  images.size(3) % reduction == 0,
              "Autoencoder: images must be [B, ", options_.channels, ", height, width] with multiples of ", reduction,
              ", got ", images.sizes());
  Tensor x = images.contiguous(at::MemoryFormat::ChannelsLast);
  for (const auto& layer : encoder_) x = layer->forward(x);
  x = map_ ? map_->forward(x) : to_code_->forward(x);
  Reconstruction result;
  if (quantiser_) {
    const Tensor positions = x.permute({0, 2, 3, 1});  // [B, h, w, d]
    const Quantised code = quantiser_->forward(positions.reshape({-1, options_.code_width}));
    x = code.output.view(positions.sizes()).permute({0, 3, 1, 2});
    result.loss = code.loss;
    result.index = code.index;
  }
  for (const auto& layer : decoder_) x = layer->forward(x);
  result.images = x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x;
  return result;
}

}  // namespace loci
