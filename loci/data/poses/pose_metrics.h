// How far predicted poses are from the true ones, and what needs no network: pose regression that does not beat the
// nearest image has learned nothing (Sattler et al. 2019, "Understanding the limitations of CNN-based absolute camera
// pose regression").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "loci/data/image/image_set.h"
#include "loci/data/poses/rotation.h"

namespace loci {

struct PoseErrors {
  double metres = 0;         // median of the positions' distances
  double degrees = 0;        // median of the angles between the rotations
  double within_fine = 0;    // share within 0.25 m and 2 degrees
  double within_coarse = 0;  // share within 0.5 m and 5 degrees
};

// Of as many predictions as truths, at least one. Throws Error (numbers) for a prediction that is not finite.
PoseErrors pose_errors(std::span<const Pose> predicted, std::span<const Pose> truth);

// Medians of the three coordinates; the rotation of those given that has the least sum of angles to the others (of an
// even sample of 2,000 where there are more). The best constant answer, nearly.
Pose median_pose(std::span<const Pose> poses);

// For each of `queries` the entry of `known` whose image is nearest: 40 x 30 grey pixels of mean 0 and deviation 1, L2.
// Numbers of images in `images`; of equally near ones the first.
std::vector<int64_t> nearest_images(const ImageSet& images, std::span<const int64_t> known,
                                    std::span<const int64_t> queries);
// The entry of `known` whose position is nearest.
std::vector<int64_t> nearest_positions(std::span<const Pose> poses, std::span<const int64_t> known,
                                       std::span<const int64_t> queries);

struct PoseBaselines {
  PoseErrors constant;       // the median pose of training
  PoseErrors nearest_image;  // the pose of the training image that looks most alike
  PoseErrors oracle;         // the nearest training pose: no retrieval can have a smaller distance
};
PoseBaselines pose_baselines(const ImageSet& images, std::span<const Pose> poses, std::span<const int64_t> train,
                             std::span<const int64_t> test);

}  // namespace loci
