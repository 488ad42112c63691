#include "loci/data/detection/average_precision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "loci/base/random_sequence.h"

namespace loci {
namespace {

constexpr int64_t kDetectionSide = 16;

PixelMask box_mask(const ImageBox& box) {
  PixelMask mask(kDetectionSide * kDetectionSide);
  for (int64_t y = static_cast<int64_t>(box.y0); y < static_cast<int64_t>(box.y1); ++y) {
    for (int64_t x = static_cast<int64_t>(box.x0); x < static_cast<int64_t>(box.x1); ++x) {
      mask.add(y * kDetectionSide + x);
    }
  }
  return mask;
}

// A box of whole pixels, its corners as keypoints.
Instance box_instance(double x, double y, double width, double height, int64_t label = 0) {
  Instance instance;
  instance.label = label;
  instance.box = {x, y, x + width, y + height};
  instance.keypoints = {{{x, y}, {x + width, y}, {x + width, y + height}, {x, y + height}}};
  instance.mask = box_mask(instance.box);
  return instance;
}

TEST(AveragePrecisionTest, OverlapsAreThoseOfTheFormulas) {
  const Instance a = box_instance(0, 0, 4, 4), b = box_instance(2, 0, 4, 4), far = box_instance(8, 8, 2, 2);
  EXPECT_DOUBLE_EQ(box_overlap(a.box, b.box), 8.0 / 24);
  EXPECT_DOUBLE_EQ(mask_overlap(a.mask, b.mask), 8.0 / 24);
  EXPECT_EQ(box_overlap(a.box, far.box), 0);
  EXPECT_EQ(box_overlap({4, 0, 8, 4}, a.box), 0) << "an edge in common";
  EXPECT_EQ(mask_overlap(a.mask, far.mask), 0);
  EXPECT_EQ(mask_overlap(PixelMask(256), PixelMask(256)), 0);
  EXPECT_EQ(box_overlap({}, {}), 0);
  // Two keypoints exact, one 1 pixel away and one 3: the mask has 16 pixels, so 2 a k^2 = 0.32.
  Instance moved = a;
  moved.keypoints[1].x += 1;
  moved.keypoints[2].y -= 3;
  EXPECT_DOUBLE_EQ(keypoint_similarity(moved, a), (2 + std::exp(-1 / 0.32) + std::exp(-9 / 0.32)) / 4);
  EXPECT_EQ(keypoint_similarity(a, a), 1);
}

// One true instance of 10 x 10 and a detection of 10 x 8 in it: an overlap of 0.8, right up to a threshold of 0.80.
TEST(AveragePrecisionTest, ADetectionIsRightUpToItsOverlap) {
  const DetectedImage image = {{box_instance(0, 0, 10, 10)}, {{box_instance(0, 0, 10, 8), 0.5}}};
  for (const Similarity kind : {Similarity::box, Similarity::mask}) {
    const AveragePrecision ap = average_precision({image}, kind, 1);
    EXPECT_THAT(ap.by_threshold, testing::ElementsAre(1, 1, 1, 1, 1, 1, 1, 0, 0, 0));
    EXPECT_DOUBLE_EQ(ap.mean, 0.7);
    EXPECT_DOUBLE_EQ(ap.by_class[0], 0.7);
  }
}

// Four true instances; by falling score right, wrong, right, right. Precisions 1, 1/2, 2/3, 3/4 at recalls 1/4, 1/4,
// 1/2, 3/4; the largest from there on: 1 up to 0.25 (26 points), 3/4 up to 0.75 (50 points), then 0.
TEST(AveragePrecisionTest, TheCurveIsTheLargestPrecisionAtAnyHigherRecall) {
  std::vector<DetectedImage> images(2);
  for (const double y : {0.0, 5.0}) {
    for (DetectedImage& image : images) image.truth.push_back(box_instance(0, y, 4, 4));
  }
  images[1].found = {{box_instance(0, 0, 4, 4), 0.9}, {box_instance(0, 5, 4, 4), 0.6}};
  images[0].found = {{box_instance(9, 9, 4, 4), 0.8}, {box_instance(0, 0, 4, 4), 0.7}};
  EXPECT_DOUBLE_EQ(average_precision(images, Similarity::box, 1).mean, (26 + 50 * 0.75) / 101);
}

TEST(AveragePrecisionTest, ATrueInstanceIsFoundOnce) {
  const Instance truth = box_instance(0, 0, 4, 4);
  const DetectedImage twice = {{truth, box_instance(8, 8, 4, 4)}, {{truth, 0.9}, {truth, 0.8}}};
  // Recall 1/2 at precision 1; the second is wrong.
  EXPECT_DOUBLE_EQ(average_precision({twice}, Similarity::box, 1).mean, 51.0 / 101);
}

// The better detection takes the instance that overlaps it most, and the other one is left with the second.
TEST(AveragePrecisionTest, ADetectionTakesTheInstanceThatItFitsBest) {
  const Instance a = box_instance(0, 0, 8, 8), b = box_instance(2, 0, 8, 8);
  EXPECT_GT(box_overlap(a.box, b.box), 0.5);
  const DetectedImage image = {{a, b}, {{b, 0.9}, {a, 0.8}}};
  EXPECT_EQ(average_precision({image}, Similarity::box, 1).mean, 1);
}

TEST(AveragePrecisionTest, IsTheMeanOfTheClassesThatExist) {
  const Instance first = box_instance(0, 0, 4, 4, 0), third = box_instance(6, 6, 4, 4, 2);
  DetectedImage image = {{first, third}, {{first, 0.9}, {box_instance(6, 6, 4, 4, 1), 0.8}}};
  AveragePrecision ap = average_precision({image}, Similarity::box, 3);
  EXPECT_EQ(ap.mean, 0.5);
  EXPECT_EQ(ap.by_class[0], 1);
  EXPECT_TRUE(std::isnan(ap.by_class[1])) << "no true instance";
  EXPECT_EQ(ap.by_class[2], 0);
  image.truth.clear();
  EXPECT_EQ(average_precision({image}, Similarity::box, 3).mean, 0);
  EXPECT_EQ(average_precision({}, Similarity::box, 3).mean, 0);
}

// The definition once more, in slow words: for each recall, over all prefixes of the detections, each matched from the
// start.
double slow_precision(const std::vector<DetectedImage>& images, Similarity kind, int64_t label, double t) {
  struct Found {
    size_t image;
    const Detection* detection;
  };
  std::vector<Found> all;
  int64_t truths = 0;
  for (size_t i = 0; i < images.size(); ++i) {
    for (const Detection& d : images[i].found) {
      if (d.instance.label == label) all.push_back({i, &d});
    }
    for (const Instance& truth : images[i].truth) truths += truth.label == label ? 1 : 0;
  }
  if (truths == 0) return std::nan("");
  std::ranges::stable_sort(all, [](const Found& a, const Found& b) { return a.detection->score > b.detection->score; });
  const auto right_of = [&](size_t prefix) {
    std::vector<const Instance*> used;
    int64_t right = 0;
    for (size_t n = 0; n < prefix; ++n) {
      const Instance* best = nullptr;
      double most = -1;
      for (const Instance& truth : images[all[n].image].truth) {
        if (truth.label != label || std::ranges::find(used, &truth) != used.end()) continue;
        const Instance& found = all[n].detection->instance;
        const double similarity = kind == Similarity::box    ? box_overlap(found.box, truth.box)
                                  : kind == Similarity::mask ? mask_overlap(found.mask, truth.mask)
                                                             : keypoint_similarity(found, truth);
        if (similarity > most) most = similarity, best = &truth;
      }
      if (most >= t) used.push_back(best), ++right;
    }
    return right;
  };
  double sum = 0;
  for (int64_t point = 0; point <= 100; ++point) {
    double best = 0;
    for (size_t prefix = 1; prefix <= all.size(); ++prefix) {
      const int64_t right = right_of(prefix);
      if (100 * right < point * truths) continue;
      best = std::max(best, static_cast<double>(right) / static_cast<double>(prefix));
    }
    sum += best / 101;
  }
  return sum;
}

TEST(AveragePrecisionTest, IsTheSlowDefinition) {
  RandomSequence random(CounterRandom(1, "average_precision_test"));
  const auto draw = [&] {
    const auto number = [&](uint64_t bound) { return static_cast<double>(random.below(bound)); };
    const double x = number(6), y = number(3), width = 4 + number(3), height = 5 + number(2);
    return box_instance(x, y, width, height, static_cast<int64_t>(random.below(2)));
  };
  bool is_between = false;
  for (int round = 0; round < 12; ++round) {
    std::vector<DetectedImage> images(3);
    for (DetectedImage& image : images) {
      for (uint64_t i = random.below(4); i-- > 0;) image.truth.push_back(draw());
      // Scores of one digit: some are equal.
      for (uint64_t i = random.below(6); i-- > 0;) {
        image.found.push_back({draw(), static_cast<double>(random.below(10)) / 10});
      }
    }
    for (const Similarity kind : {Similarity::box, Similarity::mask, Similarity::keypoints}) {
      const AveragePrecision ap = average_precision(images, kind, 2);
      double mean = 0;
      int64_t classes = 0;
      for (int64_t label = 0; label < 2; ++label) {
        double sum = 0;
        for (int64_t t = 50; t < 100; t += 5) {
          sum += slow_precision(images, kind, label, static_cast<double>(t) / 100) / 10;
        }
        const double got = ap.by_class[static_cast<size_t>(label)];
        if (std::isnan(sum)) {
          EXPECT_TRUE(std::isnan(got));
          continue;
        }
        EXPECT_NEAR(got, sum, 1e-12) << round << " class " << label;
        is_between = is_between || (sum > 0 && sum < 1);
        mean += sum;
        ++classes;
      }
      EXPECT_NEAR(ap.mean, classes == 0 ? 0 : mean / static_cast<double>(classes), 1e-12);
    }
  }
  EXPECT_TRUE(is_between);
}

}  // namespace
}  // namespace loci
