// Movements of skeletons, as the positions of joints in the plane: train.csv and test.csv in one folder. The first line
// is "clip,label,frame,x0,y0,x1,y1,..."; each further one is a frame. The frames of a clip follow each other and are
// numbered from 0. docs/data.md has the rules for users.
//
// Legend: L frames of a clip, T frames that it is resampled to, J joints.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "loci/data/file_inventory.h"

namespace loci {

struct SkeletonClip {
  int64_t label = 0;
  int64_t frames = 0;         // L
  std::vector<float> joints;  // [L, J, 2]: the frame's centroid is 0, the mean height of the body over frames is 1
};

struct SkeletonClips {
  std::vector<std::string> classes;  // by label, in the order of their names
  int64_t joints = 0;                // J
  std::vector<SkeletonClip> train, test;
  FileInventory inventory;
};

// Throws Error (input) for what is no such file, with its line, and for parts of other joints or classes.
SkeletonClips load_skeletons(const std::filesystem::path& folder);

// The frames [begin, end] of a clip, both within 0 .. L - 1 and not only whole numbers, as T frames by linear
// interpolation: output [2, T, J].
void resample_skeleton(const SkeletonClip& clip, double begin, double end, int64_t frames, float* output);

}  // namespace loci
