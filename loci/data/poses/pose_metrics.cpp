#include "loci/data/poses/pose_metrics.h"

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/base/median.h"
#include "loci/data/parallel_items.h"

namespace loci {
namespace {

constexpr int64_t kThumbnailHeight = 30;
constexpr int64_t kThumbnailWidth = 40;
constexpr int64_t kThumbnailPixels = kThumbnailHeight * kThumbnailWidth;
constexpr size_t kMostMedianCandidates = 2000;

bool all_finite(const Pose& pose) {
  const auto [w, x, y, z] = pose.rotation;
  const auto& p = pose.position;
  return std::isfinite(w + x + y + z) && std::isfinite(p[0] + p[1] + p[2]);
}

// An image of one value has no deviation and becomes zeros.
void write_thumbnail(const ImageSet& images, int64_t item, float* thumbnail) {
  Image image = {images.shape(), std::vector<uint8_t>(static_cast<size_t>(images.shape().bytes()))};
  images.read(item, image.pixels.data());
  const Image small = resized(grey_of(image), kThumbnailHeight, kThumbnailWidth);
  double sum = 0, squares = 0;
  for (const uint8_t value : small.pixels) {
    sum += value;
    squares += value * value;
  }
  const double mean = sum / kThumbnailPixels, variance = squares / kThumbnailPixels - mean * mean;
  const double scale = variance > 1e-9 ? 1 / std::sqrt(variance) : 0;
  for (int64_t i = 0; i < kThumbnailPixels; ++i) {
    thumbnail[i] = static_cast<float>((small.pixels[i] - mean) * scale);
  }
}

std::vector<float> thumbnails(const ImageSet& images, std::span<const int64_t> items) {
  std::vector<float> result(items.size() * kThumbnailPixels);
  parallel_items(std::ssize(items),
                 [&](int64_t i, int64_t) { write_thumbnail(images, items[i], result.data() + i * kThumbnailPixels); });
  return result;
}

std::vector<Pose> poses_at(std::span<const Pose> poses, std::span<const int64_t> items) {
  std::vector<Pose> result;
  for (const int64_t item : items) result.push_back(poses[item]);
  return result;
}

void check_known(std::span<const int64_t> known) {
  if (known.empty()) fail(ExitCode::bug, "pose_metrics", "there must be a known pose", "none");
}

}  // namespace

PoseErrors pose_errors(std::span<const Pose> predicted, std::span<const Pose> truth) {
  if (predicted.size() != truth.size() || truth.empty()) {
    fail(ExitCode::bug, "pose_errors", fmt::format("there must be {} predictions, at least one", truth.size()),
         fmt::to_string(predicted.size()));
  }
  PoseErrors errors;
  std::vector<double> metres, degrees;
  const double share = 1 / static_cast<double>(truth.size());
  for (size_t i = 0; i < truth.size(); ++i) {
    if (!all_finite(predicted[i])) {
      fail(ExitCode::numbers, "pose_errors", "predicted poses must be finite", fmt::format("NaN or infinity in {}", i));
    }
    metres.push_back(distance_between(predicted[i].position, truth[i].position));
    degrees.push_back(degrees_between(predicted[i].rotation, truth[i].rotation));
    if (metres.back() <= 0.25 && degrees.back() <= 2) errors.within_fine += share;
    if (metres.back() <= 0.5 && degrees.back() <= 5) errors.within_coarse += share;
  }
  errors.metres = median_of(std::move(metres));
  errors.degrees = median_of(std::move(degrees));
  return errors;
}

Pose median_pose(std::span<const Pose> poses) {
  if (poses.empty()) fail(ExitCode::bug, "median_pose", "there must be a pose", "none");
  Pose median;
  for (size_t axis = 0; axis < 3; ++axis) {
    std::vector<double> values;
    for (const Pose& pose : poses) values.push_back(pose.position[axis]);
    median.position[axis] = median_of(std::move(values));
  }
  std::vector<Quaternion> candidates;
  const size_t step = (poses.size() + kMostMedianCandidates - 1) / kMostMedianCandidates;
  for (size_t i = 0; i < poses.size(); i += step) candidates.push_back(poses[i].rotation);
  std::vector<double> sums(candidates.size());
  parallel_items(std::ssize(candidates), [&](int64_t i, int64_t) {
    for (const Quaternion& other : candidates) sums[i] += degrees_between(candidates[i], other);
  });
  median.rotation = candidates[std::min_element(sums.begin(), sums.end()) - sums.begin()];
  return median;
}

std::vector<int64_t> nearest_images(const ImageSet& images, std::span<const int64_t> known,
                                    std::span<const int64_t> queries) {
  check_known(known);
  const std::vector<float> known_pixels = thumbnails(images, known), query_pixels = thumbnails(images, queries);
  std::vector<int64_t> nearest(queries.size());
  parallel_items(std::ssize(queries), [&](int64_t q, int64_t) {
    const float* query = query_pixels.data() + q * kThumbnailPixels;
    float best = INFINITY;
    for (size_t k = 0; k < known.size(); ++k) {
      const float* other = known_pixels.data() + k * kThumbnailPixels;
      float distance = 0;
      for (int64_t i = 0; i < kThumbnailPixels; ++i) distance += (query[i] - other[i]) * (query[i] - other[i]);
      if (distance >= best) continue;
      best = distance;
      nearest[q] = known[k];
    }
  });
  return nearest;
}

std::vector<int64_t> nearest_positions(std::span<const Pose> poses, std::span<const int64_t> known,
                                       std::span<const int64_t> queries) {
  check_known(known);
  std::vector<int64_t> nearest;
  for (const int64_t query : queries) {
    const auto distance = [&](int64_t item) { return distance_between(poses[item].position, poses[query].position); };
    nearest.push_back(*std::ranges::min_element(known, {}, distance));
  }
  return nearest;
}

PoseBaselines pose_baselines(const ImageSet& images, std::span<const Pose> poses, std::span<const int64_t> train,
                             std::span<const int64_t> test) {
  const std::vector<Pose> known = poses_at(poses, train), truth = poses_at(poses, test);
  const std::vector<Pose> constant(truth.size(), median_pose(known));
  return {pose_errors(constant, truth), pose_errors(poses_at(poses, nearest_images(images, train, test)), truth),
          pose_errors(poses_at(poses, nearest_positions(poses, train, test)), truth)};
}

}  // namespace loci
