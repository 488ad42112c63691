// Videos as folders of frames: train/CLASS/CLIP/000001.jpg and test/CLASS/CLIP/000001.jpg (JPEG or PNG). docs/data.md
// has the rules for users.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/progress.h"
#include "loci/data/file_inventory.h"
#include "loci/data/image/image_set.h"

namespace loci {

// Frames [first, first + frames) of a set.
struct Clip {
  std::string name;  // "train/CLASS/CLIP"
  int64_t first = 0;
  int64_t frames = 0;
  int64_t label = 0;
};

struct LabelledClips {
  ImageSet frames;  // of all clips
  std::vector<Clip> clips;
};

struct ClipClasses {
  std::vector<std::string> classes;  // by label
  LabelledClips train;
  LabelledClips test;
  FileInventory inventory;
  std::vector<std::string> notices;  // what was left out
};

// The order of a clip's frames: digits compare as numbers, so that 2.png comes before 10.png.
bool frame_before(std::string_view a, std::string_view b);

// Reads every file. Throws Error (input) for a folder of another form, a clip without frames, and the first frame that
// is no image or has another size.
ClipClasses load_clip_folder(const std::filesystem::path& folder, const ImageOptions& options, ProgressLine& progress);

// Clips without labels: each folder that holds frames is one; its name is relative to `folder`, "." is that itself.
LabelledClips load_clips(const std::filesystem::path& folder, const ImageOptions& options, ProgressLine& progress);

}  // namespace loci
