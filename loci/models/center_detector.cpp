// Legend: B images, K classes, F width of the pyramid, J keypoints, h = w the side of the map.
#include "loci/models/center_detector.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <fmt/format.h>

#include <cmath>

#include "loci/base/check.h"
#include "loci/models/load_state.h"
#include "loci/nn/relation/non_local.h"

namespace loci {

using at::Tensor;

namespace {

constexpr int64_t kPointOutputs = 2 * kInstanceKeypoints;
constexpr int64_t kMaskOutputs = 3;
constexpr int64_t kHeads = 3;
constexpr double kHeatStart = -2.19;  // of the bias: sigmoid is 0.1, as nearly all cells are no centres

// Outputs of the heads' last convolutions, summed.
int64_t head_outputs(const CenterDetectorOptions& o) {
  return o.box_outputs() + kPointOutputs + kMaskOutputs;
}

Tensor as_real(const Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x;
}

}  // namespace

void CenterDetectorOptions::fields(ConfigFields& f) {
  body.fields(f);
  f.field("pyramid_width", pyramid_width, "channels of the pyramid's maps and of the heads",
          {.minimum = 1, .maximum = 4096});
  f.optional_section("head_non_local", has_head_non_local, head_non_local);
}

NonLocalOptions CenterDetectorOptions::head_non_local_of_map() const {
  NonLocalOptions options = head_non_local;
  options.channels = pyramid_width;
  options.dimensions = 2;
  return options;
}

void CenterDetectorOptions::check() const {
  body.check();
  if (pyramid_width < 1 || pyramid_width > 4096) {
    fail(ExitCode::usage, "model", "pyramid_width must be within 1 .. 4096", std::to_string(pyramid_width));
  }
  for (int64_t stage = 0; body.has_non_local && stage < ImageResnetOptions::kStages; ++stage) {
    if (body.non_local_after(stage).empty()) continue;
    body.non_local_options(stage).windows(image_resnet_map(stage, side, side));
  }
  if (!has_head_non_local) return;
  head_non_local_of_map().check();
  head_non_local_of_map().windows({1, map_side(), map_side()});
}

int64_t CenterDetectorOptions::parameters() const {
  const int64_t F = pyramid_width;
  int64_t count =
      checked_sum("model", "its size", count_image_resnet_parameters(body), count_pyramid_parameters(body, F));
  count += kHeads * F * (9 * F + 1) + head_outputs(*this) * (F + 1);
  return has_head_non_local ? count + count_non_local_parameters(head_non_local_of_map()) : count;
}

int64_t CenterDetectorOptions::multiply_adds() const {
  const int64_t F = pyramid_width, positions = map_side() * map_side();
  int64_t count = checked_sum("model", "its multiply-adds", image_resnet_multiply_adds(body, side, side),
                              pyramid_multiply_adds(body, F, side, side));
  count += positions * (kHeads * 9 * F * F + head_outputs(*this) * F);
  if (!has_head_non_local) return count;
  return count + non_local_multiply_adds(head_non_local_of_map(), {1, map_side(), map_side()});
}

double CenterDetectorOptions::kept_numbers() const {
  const auto F = static_cast<double>(pyramid_width), positions = static_cast<double>(map_side() * map_side());
  // Lateral, sum and output of all levels (their positions are 1 + 1/4 + 1/16 + 1/64 of the finest), the mean's parts,
  // two maps of each head, its outputs, and those of masks at 16 pixels a cell with their losses.
  double numbers = image_resnet_kept_numbers(body, side, side);
  numbers += positions * (4 * F * 1.33 + 4 * F + kHeads * 2 * F + 2 * static_cast<double>(head_outputs(*this)));
  numbers += positions * static_cast<double>(kCell * kCell * kMaskOutputs * 3);
  if (has_head_non_local) {
    const MapExtents keys = head_non_local_of_map().windows({1, map_side(), map_side()}).second;
    const auto I = static_cast<double>(head_non_local_of_map().inner_width());
    numbers += positions * (8 * I + 3 * F + static_cast<double>(keys[1] * keys[2]));
  }
  return numbers;
}

// 3x3, the block if there is one, ReLU, 1x1.
struct CenterDetector::Head : torch::nn::Module {
  Head(const std::string& name, int64_t width, int64_t outputs, uint64_t seed) : Module("Head") {
    first = register_module("first", std::make_shared<BiasedConvolution>(name + ".first", width, width, 3, 2, seed));
    last = register_module("last", std::make_shared<BiasedConvolution>(name + ".last", width, outputs, 1, 1, seed));
  }
  Tensor forward(const Tensor& x) const {
    Tensor y = first->forward(x);
    if (non_local) y = non_local->forward(y);
    return as_real(last->forward(at::relu(y)));
  }

  std::shared_ptr<BiasedConvolution> first, last;
  std::shared_ptr<NonLocal> non_local;
};

CenterDetector::CenterDetector(const CenterDetectorOptions& options, uint64_t seed)
    : Module("CenterDetector"), options_(options) {
  options.check();
  const int64_t F = options.pyramid_width;
  backbone_ = register_module("backbone", std::make_shared<FeaturePyramid>(options.body, F, seed));
  auto head = register_module("head", std::make_shared<torch::nn::Module>("Heads"));
  const auto add_head = [&](const std::string& name, int64_t outputs) {
    return head->register_module(name, std::make_shared<Head>("head." + name, F, outputs, seed));
  };
  boxes_ = add_head("boxes", options.box_outputs());
  keypoints_ = add_head("keypoints", kPointOutputs);
  masks_ = add_head("masks", kMaskOutputs);
  {
    const at::NoGradGuard guard;
    boxes_->last->bias.narrow(0, 0, options.classes).fill_(kHeatStart);
  }
  if (!options.has_head_non_local) return;
  keypoints_->non_local = keypoints_->register_module(
      "non_local", std::make_shared<NonLocal>("head.keypoints.non_local", options.head_non_local_of_map(), seed));
}

CenterOutputs CenterDetector::forward(const Tensor& images) {
  const int64_t side = options_.side, K = options_.classes;
  TORCH_CHECK(images.dim() == 4 && images.size(2) == side && images.size(3) == side,
              "CenterDetector: images must be [B, channels, ", side, ", ", side, "], got ", images.sizes());
  const std::vector<Tensor> maps = backbone_->forward(images);
  Tensor x = maps[0];
  for (size_t i = 1; i < maps.size(); ++i) x = x + nearest_map(maps[i], x.size(2), x.size(3));
  x = x / static_cast<double>(maps.size());
  const Tensor boxes = boxes_->forward(x);
  CenterOutputs out;
  out.heat = boxes.narrow(1, 0, K);
  out.size = boxes.narrow(1, K, 2);
  out.offset = boxes.narrow(1, K + 2, 2);
  out.points = keypoints_->forward(x);
  const Tensor masks =
      at::upsample_bilinear2d(masks_->forward(x), at::IntArrayRef{side, side}, /*align_corners=*/false);
  out.mask = masks.narrow(1, 0, 1);
  out.vote = masks.narrow(1, 1, 2);
  return out;
}

std::vector<std::pair<std::string, std::shared_ptr<NonLocal>>> CenterDetector::non_local() const {
  std::vector<std::pair<std::string, std::shared_ptr<NonLocal>>> blocks;
  for (const auto& [name, block] : backbone_->body().non_local()) blocks.emplace_back("backbone.body." + name, block);
  if (keypoints_->non_local) blocks.emplace_back("head.keypoints", keypoints_->non_local);
  return blocks;
}

void CenterDetector::load(const std::map<std::string, Tensor>& state, const std::string& who) {
  constexpr std::string_view body = "backbone.body.", pyramid = "backbone.fpn.", head = "head.";
  std::map<std::string, Tensor> own = state;
  std::erase_if(own, [](const auto& entry) { return entry.first.ends_with(".num_batches_tracked"); });
  load_state(who, *this, own, [&](const std::string& name) -> std::string {
    constexpr std::string_view block = "head.keypoints.non_local.";
    for (const std::string_view part : {block, pyramid, head}) {
      if (name.starts_with(part)) return std::string(part);
    }
    return backbone_->body().new_part_of(name.substr(body.size()));
  });
  backbone_->body().pass_through_missing(
      [&](const std::string& name) { return own.contains(fmt::format("{}{}.conv1.weight", body, name)); });
}

}  // namespace loci
