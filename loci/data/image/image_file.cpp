#include "loci/data/image/image_file.h"

#include <algorithm>
#include <array>
#include <utility>

#include "loci/base/check.h"
#include "loci/data/image/image_codec.h"
#include "loci/data/input_file.h"

namespace loci {
namespace {

constexpr std::string_view kJpegStart = "\xFF\xD8\xFF";
constexpr std::string_view kPngStart = "\x89PNG\r\n\x1A\n";

uint8_t rounded_product(int a, int b) {  // of shares of 255
  return static_cast<uint8_t>((a * b + 127) / 255);
}

// ITU-R BT.601, as JPEG's own luminance.
uint8_t luminance(const std::array<uint8_t, 3>& rgb) {
  return static_cast<uint8_t>((19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16);
}

// The decoders leave this to their callers: libjpeg has no conversion from CMYK, and libpng blends in linear light
// where a file names its gamma, so that equal pixels of two files would differ.
std::array<uint8_t, 3> rgb_of(PixelKind kind, const uint8_t* p) {
  switch (kind) {
    case PixelKind::grey:
      return {p[0], p[0], p[0]};
    case PixelKind::grey_alpha: {
      const uint8_t value = rounded_product(p[0], p[1]);
      return {value, value, value};
    }
    case PixelKind::rgb:
      return {p[0], p[1], p[2]};
    case PixelKind::rgb_alpha:
    case PixelKind::cmyk_inverted:
      return {rounded_product(p[0], p[3]), rounded_product(p[1], p[3]), rounded_product(p[2], p[3])};
    case PixelKind::cmyk:
      return {rounded_product(255 - p[0], 255 - p[3]), rounded_product(255 - p[1], 255 - p[3]),
              rounded_product(255 - p[2], 255 - p[3])};
  }
  return {};
}

// Where the upright image's pixel (y, x) lies in the file's; EXIF numbers the eight cases from 1.
struct UprightView {
  const CodedHeader& header;

  bool swaps_sides() const { return header.orientation >= 5; }
  size_t source(int64_t y, int64_t x) const {
    if (swaps_sides()) std::swap(y, x);
    const int o = header.orientation;
    if (o == 3 || o == 4 || o == 6 || o == 7) y = header.height - 1 - y;
    if (o == 2 || o == 3 || o == 7 || o == 8) x = header.width - 1 - x;
    return static_cast<size_t>(y * header.width + x);
  }
};

ImageShape upright_shape(const CodedHeader& header, ImageColor color) {
  ImageShape shape = {header.height, header.width, color == ImageColor::grey ? 1 : 3};
  if (UprightView{header}.swaps_sides()) std::swap(shape.height, shape.width);
  return shape;
}

Image upright_image(CodedImage coded, ImageColor color) {
  Image image = {upright_shape(coded.header, color), {}};
  const PixelKind same = color == ImageColor::grey ? PixelKind::grey : PixelKind::rgb;
  if (coded.kind == same && coded.header.orientation == 1) {
    image.pixels = std::move(coded.pixels);
    return image;
  }
  image.pixels.resize(static_cast<size_t>(image.shape.bytes()));
  const UprightView view{coded.header};
  const auto channels = static_cast<size_t>(channels_of(coded.kind));
  uint8_t* out = image.pixels.data();
  for (int64_t y = 0; y < image.shape.height; ++y) {
    for (int64_t x = 0; x < image.shape.width; ++x, out += image.shape.channels) {
      const uint8_t* pixel = coded.pixels.data() + view.source(y, x) * channels;
      const auto rgb = rgb_of(coded.kind, pixel);
      if (color == ImageColor::rgb) {
        std::copy(rgb.begin(), rgb.end(), out);
      } else {
        *out = luminance(rgb);
      }
    }
  }
  return image;
}

CodedImage decode_any(std::span<const std::byte> file, std::string_view who, const ImageReadOptions& options,
                      bool pixels) {
  const AcceptHeader accept = [&](const CodedHeader& header) {
    // Both sides are below 2^31, so that the product fits.
    if (header.height < 1 || header.width < 1 || header.height * header.width > options.maximum_pixels) {
      fail(ExitCode::input, who,
           fmt::format("the image must have 1 to {} pixels (maximum_pixels)", options.maximum_pixels),
           fmt::format("{} x {}", header.height, header.width));
    }
    return pixels;
  };
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.starts_with(kJpegStart)) return decode_jpeg(file, who, options.color, accept);
  if (text.starts_with(kPngStart)) return decode_png(file, who, accept);
  std::string got = text.empty() ? "an empty file" : "other first bytes";
  for (const char c : text.substr(0, 4)) got += fmt::format(" {:02X}", static_cast<unsigned char>(c));
  fail(ExitCode::input, who, "the file must be a JPEG or PNG image", got);
}

}  // namespace

int64_t channels_of(PixelKind kind) {
  switch (kind) {
    case PixelKind::grey:
      return 1;
    case PixelKind::grey_alpha:
      return 2;
    case PixelKind::rgb:
      return 3;
    default:
      return 4;
  }
}

Image decode_image(std::span<const std::byte> file, std::string_view who, const ImageReadOptions& options) {
  return upright_image(decode_any(file, who, options, true), options.color);
}

ImageShape image_shape(std::span<const std::byte> file, std::string_view who, const ImageReadOptions& options) {
  return upright_shape(decode_any(file, who, options, false).header, options.color);
}

Image grey_of(const Image& image) {
  if (image.shape.channels == 1) return image;
  Image grey = {{image.shape.height, image.shape.width, 1}, {}};
  for (size_t i = 0; i + 2 < image.pixels.size(); i += 3) {
    grey.pixels.push_back(luminance({image.pixels[i], image.pixels[i + 1], image.pixels[i + 2]}));
  }
  return grey;
}

std::string read_image_file(const std::filesystem::path& path, const ImageReadOptions& options) {
  const InputFile input(path);
  // 8 bytes a pixel is RGBA of 16 bits without compression; the rest is for headers and profiles.
  const auto most = static_cast<uint64_t>(options.maximum_pixels) * 8 + (1 << 24);
  if (input.size() > most) {
    fail(ExitCode::input, path.string(), fmt::format("an image file must have at most {} bytes (maximum_pixels)", most),
         fmt::to_string(input.size()));
  }
  return input.read(0, input.size());
}

Image read_image(const std::filesystem::path& path, const ImageReadOptions& options) {
  const std::string file = read_image_file(path, options);
  return decode_image(std::as_bytes(std::span(file)), path.string(), options);
}

}  // namespace loci
