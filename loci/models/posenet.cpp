// Legend: B batch, c features of the backbone, h width of the head, r numbers of a rotation.
#include "loci/models/posenet.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>

#include "loci/base/check.h"
#include "loci/nn/dropout.h"
#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

constexpr double kOutputDeviation = 0.01;  // times 1 / sqrt(h), so that predictions begin at the biases

}  // namespace

void PosenetOptions::fields(ConfigFields& f) {
  f.field("depth", depth, "layers of the residual network, 6 n + 2: n blocks in each of three stages",
          {.minimum = 8, .maximum = 2000});
  f.field("width", width, "channels of its first stage", {.minimum = 1, .maximum = 1024});
  f.field("head_width", head_width, "width of the hidden layer before the pose, or of the memory's rows",
          {.minimum = 1, .maximum = 1 << 16});
  f.field("dropout", dropout, "dropout of the head's output", {.minimum = 0, .maximum = 1});
  f.section("loss", loss);
  f.optional_section("memory", has_memory, memory);
}

void PosenetOptions::check() const {
  check_resnet_options(backbone());
  if (!has_memory) return;
  memory.check();
  if (memory.query_kernels != std::vector<int64_t>{1}) {
    fail(ExitCode::usage, "model", "memory.query_kernels must be [1] (a head has one query an image)", "others");
  }
}

ResnetOptions PosenetOptions::backbone() const {
  ResnetOptions options;
  options.depth = depth;
  options.width = width;
  options.channels = channels;
  return options;
}

std::pair<int64_t, int64_t> PosenetOptions::parameters() const {
  check();
  const ResnetOptions net = backbone();
  const int64_t features = net.stage_channels(ResnetOptions::kStages - 1);
  const int64_t rotation = loss.rotation_width();
  int64_t dense = count_resnet_parameters(net).first + (head_width + 1) * (3 + rotation);
  dense += has_memory ? memory.parameters(features) : (features + 1) * head_width;
  if (loss.kind != PoseLossKind::beta) dense += 2;
  return {dense, has_memory ? checked_product("model", "its size", memory.rows, head_width) : 0};
}

int64_t PosenetOptions::multiply_adds(int64_t height, int64_t image_width) const {
  const ResnetOptions net = backbone();
  const int64_t features = net.stage_channels(ResnetOptions::kStages - 1);
  const int64_t head = has_memory ? memory.multiply_adds(features, head_width) : features * head_width;
  return resnet_multiply_adds(net, height, image_width) + head + head_width * (3 + loss.rotation_width());
}

Posenet::Posenet(PosenetOptions options, uint64_t seed, const TableMaker& tables)
    : torch::nn::Module("Posenet"), options_(std::move(options)) {
  options_.check();
  const int64_t h = options_.head_width;
  backbone_ = register_module("backbone", std::make_shared<Resnet>(options_.backbone(), seed));
  loss_ = register_module("loss", std::make_shared<PoseLoss>(options_.loss));
  const int64_t features = options_.backbone().stage_channels(ResnetOptions::kStages - 1);
  if (options_.has_memory) {
    map_ = register_module("memory", options_.memory.make_map("memory", features, 0, h, seed, tables));
  } else {
    head_weight_ = register_parameter("head_weight", normal_start(seed, "head_weight", {h, features},
                                                                  std::sqrt(2.0 / static_cast<double>(features))));
    head_bias_ = register_parameter("head_bias", at::zeros({h}));
  }
  const double small = kOutputDeviation / std::sqrt(static_cast<double>(h));
  const int64_t r = loss_->rotation_width();
  position_weight_ = register_parameter("position_weight", normal_start(seed, "position_weight", {3, h}, small));
  position_bias_ = register_parameter("position_bias", at::zeros({3}));
  rotation_weight_ = register_parameter("rotation_weight", normal_start(seed, "rotation_weight", {r, h}, small));
  rotation_bias_ = register_parameter("rotation_bias", at::zeros({r}));
  start_at({});
}

void Posenet::start_at(const Pose& pose) {
  const at::NoGradGuard guard;
  const auto [position, rotation] = loss_->targets({&pose, 1});
  position_bias_.copy_(position[0]);
  rotation_bias_.copy_(rotation[0]);
}

PosePrediction Posenet::forward(const Tensor& images, const std::optional<at::Generator>& generator) {
  const Tensor f = backbone_->forward(images);
  Tensor g = map_ ? map_->forward(f) : at::linear(f, head_weight_, head_bias_).relu();
  BlockContext context;
  context.generator = generator;
  g = dropout(g, options_.dropout, is_training(), context).to(position_weight_.scalar_type());
  // Not in bfloat16 under autocast: it has steps of 1 cm at 3 m.
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  return {at::linear(g, position_weight_, position_bias_), at::linear(g, rotation_weight_, rotation_bias_)};
}

Tensor Posenet::read(const Tensor& images) {
  Tensor f = backbone_->forward(images);
  if (map_) map_->read_with_indices(f);
  return f;
}

}  // namespace loci
