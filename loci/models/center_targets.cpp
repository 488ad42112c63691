// The targets, the loss and the answers of a detector (center_detector.h).
//
// Legend: B images, K classes, J keypoints, n instances, h = w the side of the map, s the deviation of a peak.
#include <ATen/TensorIndexing.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "loci/models/center_detector.h"

namespace loci {
namespace {

using at::Tensor;

constexpr double kSizeWeight = 0.1, kPointWeight = 0.1, kVoteWeight = 0.1;
constexpr double kVoteReach = 0.25;  // of the box's width and height
constexpr int64_t kCellSide = CenterDetectorOptions::kCell;

struct CellOf {
  int64_t row, column;
};

CellOf cell_of(const ImageBox& box, int64_t h) {
  const ImagePoint c = box.centre();
  const auto cell = [h](double value) {
    return std::clamp<int64_t>(static_cast<int64_t>(value / kCellSide), 0, h - 1);
  };
  return {cell(c.y), cell(c.x)};
}

// The largest of what is there and the instance's peak; heat [h, w] of its class.
void add_peak(const Instance& instance, const CellOf& cell, float* heat, int64_t h) {
  const double s = std::max(2.0 / 3, std::sqrt(instance.box.area()) / kCellSide / 9);
  for (int64_t y = 0; y < h; ++y) {
    for (int64_t x = 0; x < h; ++x) {
      const auto dy = static_cast<double>(y - cell.row), dx = static_cast<double>(x - cell.column);
      float& value = heat[y * h + x];
      value = std::max(value, static_cast<float>(std::exp(-(dx * dx + dy * dy) / (2 * s * s))));
    }
  }
}

// mask [4 h, 4 w], vote [2, 4 h, 4 w].
void add_mask(const Instance& instance, float* mask, float* vote, int64_t side) {
  const ImagePoint c = instance.box.centre();
  for (int64_t pixel = 0; pixel < side * side; ++pixel) {
    if (!instance.mask.has(pixel)) continue;
    mask[pixel] = 1;
    vote[pixel] = static_cast<float>((c.x - static_cast<double>(pixel % side) - 0.5) / kCellSide);
    vote[side * side + pixel] = static_cast<float>((c.y - static_cast<double>(pixel / side) - 0.5) / kCellSide);
  }
}

// x [B, C, h, w] at the cells of instances, [n, C].
Tensor at_cells(const Tensor& x, const Tensor& cell) {
  return x.permute({0, 2, 3, 1}).index({cell.select(1, 0), cell.select(1, 1), cell.select(1, 2)});
}

Tensor heat_loss(const Tensor& heat, const Tensor& wanted) {
  const Tensor q = at::sigmoid(heat), miss = 1 - q;
  const Tensor at_centre = miss * miss * at::log_sigmoid(heat);
  const Tensor elsewhere = (1 - wanted).pow(4) * q * q * at::log_sigmoid(-heat);
  return -at::where(wanted.eq(1), at_centre, elsewhere).sum();
}

// An image's outputs as plain numbers.
struct ImageOutputs {
  const float *size, *offset, *points, *mask, *vote;
  int64_t h;
};

Detection detection_at(const ImageOutputs& o, int64_t label, int64_t cell, double score) {
  const int64_t plane = o.h * o.h, side = o.h * kCellSide;
  const auto column = static_cast<double>(cell % o.h), row = static_cast<double>(cell / o.h);
  const auto limited = [side](double cells) { return std::clamp(cells * kCellSide, 0.0, static_cast<double>(side)); };
  Detection detection;
  detection.score = score;
  Instance& found = detection.instance;
  found.label = label;
  const double x = column + o.offset[cell], y = row + o.offset[plane + cell];
  const double width = std::max(o.size[cell], 0.0F), height = std::max(o.size[plane + cell], 0.0F);
  found.box = {limited(x - width / 2), limited(y - height / 2), limited(x + width / 2), limited(y + height / 2)};
  for (size_t j = 0; j < found.keypoints.size(); ++j) {
    const float* point = o.points + 2 * static_cast<int64_t>(j) * plane + cell;
    found.keypoints[j] = {(column + point[0]) * kCellSide, (row + point[plane]) * kCellSide};
  }
  found.mask = PixelMask(side * side);
  for (int64_t pixel = 0; pixel < side * side; ++pixel) {
    if (!(o.mask[pixel] > 0)) continue;
    const double to_x = (static_cast<double>(pixel % side) + 0.5) / kCellSide + o.vote[pixel];
    const double to_y = (static_cast<double>(pixel / side) + 0.5) / kCellSide + o.vote[side * side + pixel];
    if (std::abs(to_x - x) <= kVoteReach * width && std::abs(to_y - y) <= kVoteReach * height) found.mask.add(pixel);
  }
  return detection;
}

}  // namespace

CenterTargets center_targets(const std::vector<std::vector<Instance>>& images, const CenterDetectorOptions& options) {
  const int64_t B = std::ssize(images), h = options.map_side(), side = options.side, K = options.classes;
  CenterTargets targets;
  targets.heat = at::zeros({B, K, h, h});
  targets.mask = at::zeros({B, 1, side, side});
  targets.vote = at::zeros({B, 2, side, side});
  int64_t n = 0;
  for (const auto& instances : images) n += std::ssize(instances);
  targets.cell = at::zeros({n, 3}, at::kLong);
  targets.size = at::zeros({n, 2});
  targets.offset = at::zeros({n, 2});
  targets.points = at::zeros({n, 2 * kInstanceKeypoints});
  auto* cells = targets.cell.mutable_data_ptr<int64_t>();
  auto* size = targets.size.mutable_data_ptr<float>();
  auto* offset = targets.offset.mutable_data_ptr<float>();
  auto* points = targets.points.mutable_data_ptr<float>();
  for (int64_t image = 0; image < B; ++image) {
    for (const Instance& instance : images[static_cast<size_t>(image)]) {
      const CellOf cell = cell_of(instance.box, h);
      const auto column = static_cast<double>(cell.column), row = static_cast<double>(cell.row);
      add_peak(instance, cell, targets.heat.mutable_data_ptr<float>() + (image * K + instance.label) * h * h, h);
      add_mask(instance, targets.mask.mutable_data_ptr<float>() + image * side * side,
               targets.vote.mutable_data_ptr<float>() + 2 * image * side * side, side);
      const ImagePoint c = instance.box.centre();
      for (const int64_t value : {image, cell.row, cell.column}) *cells++ = value;
      for (const double value : {instance.box.width(), instance.box.height()}) {
        *size++ = static_cast<float>(value / kCellSide);
      }
      *offset++ = static_cast<float>(c.x / kCellSide - column);
      *offset++ = static_cast<float>(c.y / kCellSide - row);
      for (const ImagePoint& point : instance.keypoints) {
        *points++ = static_cast<float>(point.x / kCellSide - column);
        *points++ = static_cast<float>(point.y / kCellSide - row);
      }
    }
  }
  return targets;
}

Tensor center_loss(const CenterOutputs& outputs, const CenterTargets& targets) {
  const auto n = static_cast<double>(std::max<int64_t>(targets.cell.size(0), 1));
  const auto distance = [&](const Tensor& got, const Tensor& wanted) {
    return (at_cells(got, targets.cell) - wanted).abs().sum() / n;
  };
  const Tensor mask = at::binary_cross_entropy_with_logits(outputs.mask, targets.mask);
  const Tensor votes = ((outputs.vote - targets.vote).abs() * targets.mask).sum() / targets.mask.sum().clamp_min(1);
  return heat_loss(outputs.heat, targets.heat) / n + kSizeWeight * distance(outputs.size, targets.size) +
         distance(outputs.offset, targets.offset) + kPointWeight * distance(outputs.points, targets.points) + mask +
         kVoteWeight * votes;
}

std::vector<std::vector<Detection>> center_detections(const CenterOutputs& outputs) {
  const auto plain = [](const Tensor& x) { return x.detach().to(at::kFloat).contiguous(); };
  const Tensor heat = plain(outputs.heat);
  const int64_t B = heat.size(0), h = heat.size(2), plane = h * h;
  const Tensor peaks =
      at::where(at::max_pool2d(heat, 3, 1, 1).eq(heat), at::sigmoid(heat), 0).flatten(1);  // [B, K h w]
  const int64_t most = std::min<int64_t>(CenterDetectorOptions::kMost, peaks.size(1));
  const auto [scores, places] = at::topk(peaks, most, 1);
  const Tensor size = plain(outputs.size), offset = plain(outputs.offset), points = plain(outputs.points),
               mask = plain(outputs.mask), vote = plain(outputs.vote);
  std::vector<std::vector<Detection>> result(static_cast<size_t>(B));
  for (int64_t image = 0; image < B; ++image) {
    const auto of = [image](const Tensor& x) { return x.const_data_ptr<float>() + image * x[0].numel(); };
    const ImageOutputs numbers = {of(size), of(offset), of(points), of(mask), of(vote), h};
    for (int64_t i = 0; i < most; ++i) {
      const auto score = static_cast<double>(scores[image][i].item<float>());
      if (score == 0) break;  // fewer peaks than `most`
      const auto place = places[image][i].item<int64_t>();
      result[static_cast<size_t>(image)].push_back(detection_at(numbers, place / plane, place % plane, score));
    }
  }
  return result;
}

}  // namespace loci
