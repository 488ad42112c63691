// Files of MNIST's form (idx): a number that names type and dimensions, the sides, the values. As they are or gzip.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "loci/data/image/image_folder.h"

namespace loci {

struct IdxFile {
  std::vector<int64_t> sides;   // 1 to 4, each below 2^32
  std::vector<uint8_t> values;  // the last side is the fastest
};

// Of unsigned bytes, the one type that images and labels have. Throws Error (input) for any other file, and for one
// that holds fewer or more values than its header says.
IdxFile read_idx(const std::filesystem::path& path);

// Whether the folder has train-images-idx3-ubyte, with or without .gz.
bool is_idx_folder(const std::filesystem::path& folder);
// Its four files: train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k- for the test. Images are grey and become
// RGB or another size when the options say so. Throws Error (input) when files are missing or do not belong together.
ImageClasses load_idx_folder(const std::filesystem::path& folder, const ImageFolderOptions& options);

}  // namespace loci
