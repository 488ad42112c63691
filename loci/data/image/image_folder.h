// A folder of labelled images: train/CLASS/IMAGE and test/CLASS/IMAGE; or CLASS/IMAGE alone, of which a share is held
// out for the test; or MNIST's four idx files (idx_file.h). docs/data.md has the rules for users.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/progress.h"
#include "loci/data/file_inventory.h"
#include "loci/data/image/image_set.h"

namespace loci {

struct ImageFolderOptions {
  ImageOptions image;
  double test_share = 0.1;  // of the images of each class, where the folder has no train and test
  int64_t split_seed = 0;
  void fields(ConfigFields& f);
};

struct LabelledImages {
  ImageSet images;
  std::vector<int64_t> labels;  // 0 .. classes-1
};

struct ImageClasses {
  std::vector<std::string> classes;  // by label
  LabelledImages train;
  LabelledImages test;
  FileInventory inventory;
  std::vector<std::string> notices;  // what was left out
};

const std::vector<std::string>& image_extensions();  // .jpg, .jpeg, .png

// The options that decide what is read and how it is split, as TOML: a part of the data's key.
std::string image_settings(ImageFolderOptions options);

// Reads every file. Throws Error (input) for a folder of another form, and for the first file that is not an image or
// that has another size.
ImageClasses load_image_folder(const std::filesystem::path& folder, const ImageFolderOptions& options,
                               ProgressLine& progress);

}  // namespace loci
