// Images of one shape, by number, for training. As many as a budget of memory allows are held decoded; the others are
// decoded whenever they are asked for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/progress.h"
#include "loci/data/file_inventory.h"
#include "loci/data/image/image_file.h"

namespace loci {

struct ImageOptions {
  ImageColor color = ImageColor::rgb;
  std::vector<int64_t> size;  // {height, width} that images are scaled and cut to; none: they must have one size
  int64_t maximum_pixels = ImageReadOptions().maximum_pixels;
  int64_t memory_mib = 4096;  // of decoded images, all sets together
  void fields(ConfigFields& f);
};

// Throws Error (usage) unless `size` is empty or two numbers.
void check_image_size(const ImageOptions& options);

// Those that decide what an image becomes: without the limits of memory and size.
ImageOptions without_limits(ImageOptions options);

// An image in a file that was looked at before.
struct ImageSource {
  std::filesystem::path path;
  std::string name;      // for messages
  std::string sum = {};  // checksum of the file
};

class ImageSet {
 public:
  ImageSet() = default;
  // Whole images in memory: [size, height, width, channels].
  ImageSet(ImageShape shape, std::vector<uint8_t> pixels);
  // The first of `sources` are in memory.
  ImageSet(ImageShape shape, std::vector<uint8_t> pixels, std::vector<ImageSource> sources, ImageOptions options);

  int64_t size() const { return size_; }
  int64_t held() const { return held_; }  // of them in memory
  const ImageShape& shape() const { return shape_; }
  // Writes the image [height, width, channels] to `pixels`. Any number of threads may read. Throws Error (input) when a
  // file is damaged or changed.
  void read(int64_t item, uint8_t* pixels) const;

 private:
  ImageShape shape_;
  std::vector<uint8_t> pixels_;
  std::vector<ImageSource> sources_;
  ImageOptions options_;
  int64_t held_ = 0;
  int64_t size_ = 0;
};

// Reads files on several threads. All sets that one loader makes have one shape and share the budget. Throws Error
// (input) for the first file that is no image of that shape.
class ImageLoader {
 public:
  ImageLoader(ImageOptions options, ProgressLine& progress);

  ImageSet load(std::vector<ImageSource> sources);
  const std::vector<FileInventory::File>& files() const { return files_; }  // all that were loaded

 private:
  void expect_shape_of(const ImageSource& first);
  // The file's checksum; the decoded image is written to `pixels` unless that is null.
  FileInventory::File load_one(const ImageSource& source, uint8_t* pixels) const;

  ImageOptions options_;
  ProgressLine& progress_;
  int64_t budget_;
  ImageShape shape_ = {0, 0, 0};
  std::string first_;  // the image whose shape all must have; empty with options.size
  std::vector<FileInventory::File> files_;
};

}  // namespace loci
