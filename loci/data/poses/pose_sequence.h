// A camera's path as images and poses: a folder of frames, in the order of their names, and poses.txt with one line of
// 16 numbers for each, the rows of the 4 x 4 matrix from camera to world (the form of 7-Scenes). docs/data.md has the
// rules for users.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/progress.h"
#include "loci/data/file_inventory.h"
#include "loci/data/image/image_set.h"
#include "loci/data/poses/rotation.h"

namespace loci {

// The lines of a poses.txt; `who` names it in errors. A rotation may be off by 0.01 (as measured ones are) and is
// replaced by the nearest one. Throws Error (input) with the number of the line.
std::vector<Pose> parse_poses(std::string_view text, std::string_view who);

struct PoseSequence {
  ImageSet images;
  std::vector<Pose> poses;  // of each image
  FileInventory inventory;
  std::vector<std::string> notices;  // what was left out
};

// Throws Error (input) for a missing folder and for the first damaged file.
PoseSequence load_pose_sequence(const std::filesystem::path& folder, const ImageOptions& options,
                                ProgressLine& progress);

// Frames that follow each other are nearly the same, so that training and test are blocks of time, never drawn.
struct PoseSplitOptions {
  std::vector<int64_t> test_blocks;  // first, last, first, last ...; none: the frames from 70 % to 85 %
  int64_t margin = 0;                // frames on each side of a test block that are in neither part
  void fields(ConfigFields& f);
};
struct PoseSplit {
  std::vector<int64_t> train, test;  // frames, in order
};
// Throws Error (usage) when the blocks are no ascending ranges of the frames, or a part is empty.
PoseSplit split_poses(int64_t frames, const PoseSplitOptions& options);

}  // namespace loci
