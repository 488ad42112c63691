// Images of shapes with boxes, masks and four keypoints each, on clutter: data for detectors
// (models/center_detector.h), after the second half of Wang, Girshick, Gupta and He 2018 ("Non-local Neural Networks",
// section 6: COCO); the set is ours.
//
//   image       128 x 128 RGB: a gradient between two colours, `clutter` bars and triangles, 1 to `most` shapes, noise
//               uniform in [-noise, noise] of the range of values; all colours uniform
//   a shape     an arrow, a kite or an ell, given as a polygon and four points in a disc of radius 1, turned by at most
//               `turn` degrees, with a radius of 14 to 26 pixels, whole in the image
//   placement   centres are at least half of the sum of the radii apart; without room after 20 tries a shape is left
//               out. A later shape covers earlier ones; one that is covered whole is no instance
//   mask        the pixels that show the shape; box: its bounds; keypoints: also where they are covered
//
// A sample is a pure function of (seed, stream, its number).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/random.h"
#include "loci/data/detection/instances.h"

namespace loci {

// [data]
struct ShapesOptions {
  static constexpr int64_t kSide = 128;  // of an image
  static constexpr int64_t kClasses = 3;
  int64_t most = 3;
  int64_t clutter = 12;
  double turn = 180;
  double noise = 0.1;
  void fields(ConfigFields& f);

  static int64_t pixels() { return kSide * kSide; }
  std::string text() const;
};

// "arrow", "kite", "ell".
const char* shape_name(int64_t label);

using ColorRgb = std::array<double, 3>;  // 0 .. 255

struct PlacedShape {
  int64_t label = 0;
  ImagePoint centre;
  double radius = 0;
  double angle = 0;  // clockwise
  ColorRgb color = {};
};

// A polygon of one colour behind the shapes.
struct ClutterPiece {
  std::vector<ImagePoint> corners;
  ColorRgb color = {};
};

// What a sample shows.
struct ShapesScene {
  std::array<ColorRgb, 2> background = {};
  double direction = 0;  // of the gradient
  std::vector<ClutterPiece> clutter;
  std::vector<PlacedShape> shapes;
};

// Of a placed shape, in the image.
std::vector<ImagePoint> shape_corners(const PlacedShape& shape);
std::array<ImagePoint, kInstanceKeypoints> shape_keypoints(const PlacedShape& shape);

class ShapesKeypoints {
 public:
  ShapesKeypoints(const ShapesOptions& options, uint64_t seed, std::string_view stream);

  ShapesScene scene(int64_t sample) const;
  // Its image [128, 128, 3] into `pixels`, and its instances in the order of the shapes.
  std::vector<Instance> draw(int64_t sample, uint8_t* pixels) const;

 private:
  CounterRandom of_sample(int64_t sample) const;

  ShapesOptions options_;
  uint64_t seed_;
  CounterRandom streams_;  // of samples
};

}  // namespace loci
