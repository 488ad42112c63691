// The decoders behind image_file.h: pixels as the file has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "loci/data/image/image_file.h"

namespace loci {

enum class PixelKind {
  grey,
  grey_alpha,
  rgb,
  rgb_alpha,
  cmyk,           // 255: full ink
  cmyk_inverted,  // 255: no ink, as Adobe writes it
};
int64_t channels_of(PixelKind kind);

struct CodedHeader {
  int64_t height = 0;  // before the orientation
  int64_t width = 0;
  int orientation = 1;  // of EXIF, 1 .. 8
};

struct CodedImage {
  CodedHeader header;
  PixelKind kind = PixelKind::rgb;
  std::vector<uint8_t> pixels;
};

// `accept` sees the header before anything is allocated for the pixels, and throws or returns whether to go on; the
// image has no pixels otherwise.
using AcceptHeader = std::function<bool(const CodedHeader&)>;
CodedImage decode_jpeg(std::span<const std::byte> file, std::string_view who, ImageColor color,
                       const AcceptHeader& accept);
CodedImage decode_png(std::span<const std::byte> file, std::string_view who, const AcceptHeader& accept);

// The orientation in a TIFF block of EXIF; 1 when there is none or the block is malformed.
int exif_orientation(std::span<const uint8_t> tiff);

}  // namespace loci
