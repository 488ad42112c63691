#include "loci/data/image/image_set.h"

#include <algorithm>
#include <atomic>
#include <span>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/base/stop_signal.h"
#include "loci/data/parallel_items.h"

namespace loci {
namespace {

ImageReadOptions read_options_of(const ImageOptions& options) {
  return {options.color, options.maximum_pixels};
}

std::string sides(const ImageShape& shape) {
  return fmt::format("{} x {}", shape.height, shape.width);
}

Image decode_to_size(const std::string& file, const ImageSource& source, const ImageOptions& options) {
  Image image = decode_image(std::as_bytes(std::span(file)), source.path.string(), read_options_of(options));
  return options.size.empty() ? image : resized(image, options.size[0], options.size[1]);
}

}  // namespace

void check_image_size(const ImageOptions& options) {
  if (options.size.empty() || (options.size.size() == 2 && options.size[0] >= 1 && options.size[1] >= 1)) return;
  fail(ExitCode::usage, "size", "it must be empty or [height, width], both at least 1",
       fmt::format("{} numbers", options.size.size()));
}

ImageOptions without_limits(ImageOptions options) {
  options.memory_mib = ImageOptions().memory_mib;
  options.maximum_pixels = ImageOptions().maximum_pixels;
  return options;
}

void ImageOptions::fields(ConfigFields& f) {
  f.choice("color", color, "channels of the images", {{"rgb", ImageColor::rgb}, {"grey", ImageColor::grey}});
  f.field("size", size, "[height, width] to which images are scaled and cut; empty: all must have one size",
          {.minimum = 1, .maximum = 1 << 15});
  f.field("maximum_pixels", maximum_pixels, "an image file of more pixels is refused",
          {.minimum = 1, .maximum = int64_t{1} << 31});
  f.field("memory_mib", memory_mib, "decoded images held in memory; others are decoded whenever they are needed",
          {.minimum = 0, .maximum = int64_t{1} << 40});
}

ImageSet::ImageSet(ImageShape shape, std::vector<uint8_t> pixels) : ImageSet(shape, std::move(pixels), {}, {}) {}

ImageSet::ImageSet(ImageShape shape, std::vector<uint8_t> pixels, std::vector<ImageSource> sources,
                   ImageOptions options)
    : shape_(shape), pixels_(std::move(pixels)), sources_(std::move(sources)), options_(std::move(options)) {
  if (shape.bytes() < 1 || std::ssize(pixels_) % shape.bytes() != 0) {
    fail(ExitCode::bug, "ImageSet", fmt::format("pixels must be whole images of {} bytes", shape.bytes()),
         fmt::to_string(pixels_.size()));
  }
  held_ = std::ssize(pixels_) / shape.bytes();
  size_ = std::max<int64_t>(held_, std::ssize(sources_));
}

void ImageSet::read(int64_t item, uint8_t* pixels) const {
  if (item < 0 || item >= size_) {
    fail(ExitCode::bug, "ImageSet", fmt::format("item must be in 0 .. {}", size_ - 1), fmt::to_string(item));
  }
  if (item < held_) {
    std::copy_n(pixels_.data() + item * shape_.bytes(), shape_.bytes(), pixels);
    return;
  }
  const ImageSource& source = sources_[item];
  const std::string file = read_image_file(source.path, read_options_of(options_));
  if (checksum(std::as_bytes(std::span(file))) != source.sum) {
    fail(ExitCode::input, source.path.string(), "the file must stay as it is while it is used",
         "other bytes than before");
  }
  const Image image = decode_to_size(file, source, options_);
  std::copy(image.pixels.begin(), image.pixels.end(), pixels);
}

ImageLoader::ImageLoader(ImageOptions options, ProgressLine& progress)
    : options_(std::move(options)), progress_(progress), budget_(options_.memory_mib << 20) {
  check_image_size(options_);
  if (!options_.size.empty()) {
    shape_ = {options_.size[0], options_.size[1], options_.color == ImageColor::grey ? 1 : 3};
  }
}

void ImageLoader::expect_shape_of(const ImageSource& first) {
  const std::string file = read_image_file(first.path, read_options_of(options_));
  shape_ = image_shape(std::as_bytes(std::span(file)), first.path.string(), read_options_of(options_));
  first_ = first.name;
}

FileInventory::File ImageLoader::load_one(const ImageSource& source, uint8_t* pixels) const {
  const std::string file = read_image_file(source.path, read_options_of(options_));
  const std::span bytes = std::as_bytes(std::span(file));
  // From the header, so that an image of another size is refused before memory is allocated for it.
  const ImageShape shape = image_shape(bytes, source.path.string(), read_options_of(options_));
  if (options_.size.empty() && shape != shape_) {
    fail(ExitCode::input, source.path.string(),
         fmt::format("images must have one size, {} as {}, or be scaled (size = [height, width])", sides(shape_),
                     first_),
         sides(shape));
  }
  if (pixels != nullptr) {
    const Image image = decode_to_size(file, source, options_);
    std::copy(image.pixels.begin(), image.pixels.end(), pixels);
  }
  return {source.name, file.size(), checksum(bytes)};
}

ImageSet ImageLoader::load(std::vector<ImageSource> sources) {
  if (sources.empty()) fail(ExitCode::bug, "ImageLoader", "there must be an image", "none");
  const StopSignal signals("stopping");
  if (shape_.bytes() == 0) expect_shape_of(sources.front());
  const int64_t count = std::ssize(sources), bytes = shape_.bytes();
  const int64_t held = std::min(count, budget_ / bytes);
  budget_ -= held * bytes;
  std::vector<uint8_t> pixels(static_cast<size_t>(held * bytes));
  std::vector<FileInventory::File> files(sources.size());
  std::atomic<int64_t> done = 0;
  parallel_items(count, [&](int64_t i, int64_t thread) {
    StopSignal::check("stopped while images were read");
    files[i] = load_one(sources[i], i < held ? pixels.data() + i * bytes : nullptr);
    sources[i].sum = files[i].sum;
    ++done;
    if (thread == 0) progress_.show(fmt::format("images: {} of {} read", done.load(), count));
  });
  files_.insert(files_.end(), files.begin(), files.end());
  return ImageSet(shape_, std::move(pixels), std::move(sources), options_);
}

}  // namespace loci
