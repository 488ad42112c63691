#include "loci/data/detection/average_precision.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace loci {
namespace {

constexpr int64_t kRecallPoints = 101;

double overlap_threshold(int64_t index) {
  return static_cast<double>(50 + 5 * index) / 100;
}

double similarity_of(Similarity kind, const Instance& found, const Instance& truth) {
  switch (kind) {
    case Similarity::box:
      return box_overlap(found.box, truth.box);
    case Similarity::mask:
      return mask_overlap(found.mask, truth.mask);
    default:
      return keypoint_similarity(found, truth);
  }
}

// A detection of a class: for each threshold whether it is right.
struct ScoredMatch {
  double score = 0;
  std::array<bool, kOverlapThresholds> right = {};
};

// Of an image's detections of a class, appended by falling score.
void match_image(const DetectedImage& image, Similarity kind, int64_t label, std::vector<ScoredMatch>& matches) {
  std::vector<const Detection*> found;
  for (const Detection& detection : image.found) {
    if (detection.instance.label == label) found.push_back(&detection);
  }
  std::stable_sort(found.begin(), found.end(), [](const auto* a, const auto* b) { return a->score > b->score; });
  std::vector<const Instance*> truth;
  for (const Instance& instance : image.truth) {
    if (instance.label == label) truth.push_back(&instance);
  }
  std::array<std::vector<bool>, kOverlapThresholds> taken;
  for (auto& flags : taken) flags.assign(truth.size(), false);
  for (const Detection* detection : found) {
    std::vector<double> similarity;
    for (const Instance* instance : truth) similarity.push_back(similarity_of(kind, detection->instance, *instance));
    ScoredMatch match{detection->score, {}};
    for (size_t t = 0; t < taken.size(); ++t) {
      double best = overlap_threshold(static_cast<int64_t>(t));
      size_t chosen = truth.size();
      for (size_t i = 0; i < truth.size(); ++i) {
        if (taken[t][i] || similarity[i] < best) continue;
        // The first of equal ones.
        if (chosen < truth.size() && similarity[i] == best) continue;
        best = similarity[i];
        chosen = i;
      }
      if (chosen == truth.size()) continue;
      taken[t][chosen] = true;
      match.right[t] = true;
    }
    matches.push_back(match);
  }
}

// AP(t) of matches by falling score.
double area_of_curve(const std::vector<ScoredMatch>& matches, size_t t, int64_t truths) {
  std::vector<double> precision(matches.size()), recall(matches.size());
  int64_t right = 0;
  for (size_t n = 0; n < matches.size(); ++n) {
    right += matches[n].right[t] ? 1 : 0;
    precision[n] = static_cast<double>(right) / static_cast<double>(n + 1);
    recall[n] = static_cast<double>(right) / static_cast<double>(truths);
  }
  for (size_t n = matches.size(); n-- > 1;) precision[n - 1] = std::max(precision[n - 1], precision[n]);
  double sum = 0;
  size_t n = 0;
  for (int64_t point = 0; point < kRecallPoints; ++point) {
    const double R = static_cast<double>(point) / (kRecallPoints - 1);
    while (n < recall.size() && recall[n] < R) ++n;
    if (n == recall.size()) break;
    sum += precision[n];
  }
  return sum / kRecallPoints;
}

}  // namespace

double box_overlap(const ImageBox& a, const ImageBox& b) {
  const double width = std::min(a.x1, b.x1) - std::max(a.x0, b.x0);
  const double height = std::min(a.y1, b.y1) - std::max(a.y0, b.y0);
  if (width <= 0 || height <= 0) return 0;
  return width * height / (a.area() + b.area() - width * height);
}

double mask_overlap(const PixelMask& a, const PixelMask& b) {
  const int64_t shared = a.count_shared(b), all = a.count() + b.count() - shared;
  return all == 0 ? 0 : static_cast<double>(shared) / static_cast<double>(all);
}

double keypoint_similarity(const Instance& found, const Instance& truth) {
  const double scale = 2 * static_cast<double>(truth.mask.count()) * kKeypointScale * kKeypointScale;
  double sum = 0;
  for (size_t i = 0; i < truth.keypoints.size(); ++i) {
    const double dx = found.keypoints[i].x - truth.keypoints[i].x, dy = found.keypoints[i].y - truth.keypoints[i].y;
    sum += std::exp(-(dx * dx + dy * dy) / scale);
  }
  return sum / static_cast<double>(truth.keypoints.size());
}

AveragePrecision average_precision(const std::vector<DetectedImage>& images, Similarity similarity, int64_t classes) {
  AveragePrecision result;
  int64_t seen = 0;
  for (int64_t label = 0; label < classes; ++label) {
    int64_t truths = 0;
    std::vector<ScoredMatch> matches;
    for (const DetectedImage& image : images) {
      truths += std::ranges::count_if(image.truth, [&](const Instance& i) { return i.label == label; });
      match_image(image, similarity, label, matches);
    }
    result.by_class.push_back(std::numeric_limits<double>::quiet_NaN());
    if (truths == 0) continue;
    ++seen;
    std::ranges::stable_sort(matches, [](const auto& a, const auto& b) { return a.score > b.score; });
    double sum = 0;
    for (size_t t = 0; t < result.by_threshold.size(); ++t) {
      const double area = area_of_curve(matches, t, truths);
      sum += area;
      result.by_threshold[t] += area;
    }
    result.by_class.back() = sum / kOverlapThresholds;
  }
  for (double& value : result.by_threshold) value /= static_cast<double>(std::max<int64_t>(seen, 1));
  result.mean = std::accumulate(result.by_threshold.begin(), result.by_threshold.end(), 0.0) / kOverlapThresholds;
  return result;
}

}  // namespace loci
