// What a detector is asked for and what it answers: boxes, keypoints and masks of the instances in an image.
//
// Coordinates are pixels of the image, x to the right, y down; pixel (0, 0) covers 0 to 1 in both.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace loci {

constexpr int64_t kInstanceKeypoints = 4;

struct ImagePoint {
  double x = 0;
  double y = 0;
  bool operator==(const ImagePoint&) const = default;
};

struct ImageBox {
  double x0 = 0, y0 = 0, x1 = 0, y1 = 0;
  double width() const { return x1 - x0; }
  double height() const { return y1 - y0; }
  double area() const { return width() * height(); }
  ImagePoint centre() const { return {(x0 + x1) / 2, (y0 + y1) / 2}; }
  bool operator==(const ImageBox&) const = default;
};

// A set of an image's pixels, a bit each, row by row.
class PixelMask {
 public:
  explicit PixelMask(int64_t pixels = 0) : bits_(static_cast<size_t>((pixels + 63) / 64)) {}
  bool has(int64_t pixel) const { return (bits_[static_cast<size_t>(pixel / 64)] >> (pixel % 64) & 1) != 0; }
  void add(int64_t pixel) { bits_[static_cast<size_t>(pixel / 64)] |= uint64_t{1} << (pixel % 64); }
  void remove(const PixelMask& other);
  int64_t count() const;
  // Of masks of one image.
  int64_t count_shared(const PixelMask& other) const;
  bool operator==(const PixelMask&) const = default;

 private:
  std::vector<uint64_t> bits_;
};

struct Instance {
  int64_t label = 0;
  ImageBox box;
  std::array<ImagePoint, kInstanceKeypoints> keypoints = {};
  PixelMask mask;
};

struct Detection {
  Instance instance;
  double score = 0;
};

}  // namespace loci
