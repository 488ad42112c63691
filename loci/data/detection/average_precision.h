// Average precision of detections, after the measures of COCO (Lin et al. 2014, "Microsoft COCO").
//
// Legend: t threshold, R recall, s score of a detection.
//
//   similarity  box        area of the intersection / area of the union (IoU)
//               mask       the same, counted in pixels
//               keypoints  (1/4) sum over i of exp(-d_i^2 / (2 a k^2)): object keypoint similarity, d_i the distance of
//                          keypoint i from the true one in pixels, a the pixels of the true mask, k = 0.1 for all
//   matches     for a class and a t: the detections of an image by falling s; each takes the true instance that no
//               earlier one took with the largest similarity, if that is at least t, and is right; else it is wrong
//   curve       the detections of all images by falling s (of equal ones in the order of images and detections): after
//               the n-th, precision = right / n and recall = right / true instances
//   AP(t)       the mean over R = 0, 0.01, ..., 1 of the largest precision at any recall >= R, 0 where there is none
//   AP          the mean over t = 0.50, 0.55, ..., 0.95, and then over the classes that have true instances
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "loci/data/detection/instances.h"

namespace loci {

constexpr double kKeypointScale = 0.1;  // k
constexpr int64_t kOverlapThresholds = 10;

enum class Similarity { box, mask, keypoints };

double box_overlap(const ImageBox& a, const ImageBox& b);  // IoU; 0 for two empty boxes
double mask_overlap(const PixelMask& a, const PixelMask& b);
double keypoint_similarity(const Instance& found, const Instance& truth);

// The answers to one image.
struct DetectedImage {
  std::vector<Instance> truth;
  std::vector<Detection> found;
};

struct AveragePrecision {
  double mean = 0;
  std::array<double, kOverlapThresholds> by_threshold = {};  // means over classes
  std::vector<double> by_class;                              // means over thresholds; NaN without a true instance
};

// 0 where no class has a true instance.
AveragePrecision average_precision(const std::vector<DetectedImage>& images, Similarity similarity, int64_t classes);

}  // namespace loci
