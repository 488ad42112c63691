// Images as bytes: JPEG and PNG files in, PNG files out.
//
// Every image arrives as 8 bits a channel, as RGB or as grey, upright (the EXIF orientation is applied). Palettes are
// looked up, 16 bits are scaled to 8, what is transparent is laid on black, CMYK becomes RGB without a colour profile.
// An image is whole or an Error (input) that names the file: a truncated one gives no pixels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace loci {

struct ImageShape {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 3;  // 3: RGB, 1: grey
  int64_t bytes() const { return height * width * channels; }
  bool operator==(const ImageShape&) const = default;
};

struct Image {
  ImageShape shape;
  std::vector<uint8_t> pixels;  // [height, width, channels]
};

enum class ImageColor { rgb, grey };

struct ImageReadOptions {
  ImageColor color = ImageColor::rgb;
  // An image of more is refused by its header, before memory is allocated for it.
  int64_t maximum_pixels = int64_t{1} << 26;
};

// `who` names the image in errors. All throw Error (input) for what is no whole JPEG or PNG image.
Image decode_image(std::span<const std::byte> file, std::string_view who, const ImageReadOptions& options);
// The shape that decode_image() would give, from the header alone.
ImageShape image_shape(std::span<const std::byte> file, std::string_view who, const ImageReadOptions& options);
// The bytes of the file; one that is larger than an image of maximum_pixels can be is refused.
std::string read_image_file(const std::filesystem::path& path, const ImageReadOptions& options);
Image read_image(const std::filesystem::path& path, const ImageReadOptions& options);

// The file is complete or absent. Throws Error (usage) when it cannot be written.
void write_png(const std::filesystem::path& path, const Image& image);

// One channel: the luminance of ITU-R BT.601.
Image grey_of(const Image& image);

// Scaled until it covers height x width, then cut around its centre. The scaling is separable with a triangle of two
// pixels of the coarser grid as its filter, so that nothing aliases when an image becomes smaller.
Image resized(const Image& image, int64_t height, int64_t width);

}  // namespace loci
