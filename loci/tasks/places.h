// Whether a pose network's memory reads the same rows at the same places (loci/data/poses/spatial_correlation.h),
// beside two controls that must be beaten before anything is said of the memory.
//
// Legend: M frames, c features of the backbone.
//
//   memory     rows that the trained network's memory reads for each frame
//   untrained  the same of the network as it started, after one pass that gives its norms their statistics
//   clusters   k-means of the trained network's features, each frame in one cluster; as many frames a cluster as the
//              memory has frames a row
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loci/data/poses/spatial_correlation.h"
#include "loci/models/posenet.h"
#include "loci/tasks/pose_data.h"
#include "loci/train/task.h"

namespace loci {

// For each row of x [M, c] its cluster of `clusters`, by Lloyd's algorithm from distinct rows drawn from the seed;
// clusters that lose all rows stay where they are. Of equally near centres the first.
std::vector<int64_t> k_means(const at::Tensor& x, int64_t clusters, uint64_t seed);

// In evaluation mode, without gradient; `model` must have a memory. Throws Error (usage) for paths too short to shift.
Account account_of_places(Posenet& model, const OpenedPoses& data, const ChannelScale& scale, uint64_t seed,
                          ProgressLine* progress);

}  // namespace loci
