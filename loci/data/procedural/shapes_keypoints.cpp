#include "loci/data/procedural/shapes_keypoints.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "loci/base/check.h"
#include "loci/base/random_sequence.h"

namespace loci {
namespace {

constexpr int64_t kShapesSide = ShapesOptions::kSide;
constexpr double kSmallestRadius = 14;
constexpr double kLargestRadius = 26;
constexpr double kApart = 0.5;  // of two radii together
constexpr int kPlacementTries = 20;
constexpr uint64_t kShapesNoisePosition = uint64_t{1} << 32;  // of a sample's draws; those of its scene come before

// In the disc of radius 1 around (0, 0).
struct ShapeOutline {
  const char* name;
  std::vector<ImagePoint> corners;
  std::array<ImagePoint, kInstanceKeypoints> keypoints;
};

const std::array<ShapeOutline, ShapesOptions::kClasses>& outlines() {
  static const std::array<ShapeOutline, ShapesOptions::kClasses> all = {
      {{"arrow",
        {{0, -1}, {0.65, -0.2}, {0.25, -0.2}, {0.25, 0.95}, {-0.25, 0.95}, {-0.25, -0.2}, {-0.65, -0.2}},
        {{{0, -1}, {0.65, -0.2}, {0, 0.95}, {-0.65, -0.2}}}},
       {"kite", {{0, -1}, {0.6, -0.3}, {0, 1}, {-0.6, -0.3}}, {{{0, -1}, {0.6, -0.3}, {0, 1}, {-0.6, -0.3}}}},
       {"ell",
        {{-0.6, -0.8}, {0, -0.8}, {0, 0.2}, {0.7, 0.2}, {0.7, 0.7}, {-0.6, 0.7}},
        {{{-0.6, -0.8}, {0, 0.2}, {0.7, 0.45}, {-0.6, 0.7}}}}}};
  return all;
}

double between_reals(RandomSequence& random, double low, double high) {
  return low + (high - low) * random.uniform();
}

ColorRgb draw_color(RandomSequence& random) {
  ColorRgb color = {};
  for (double& channel : color) channel = 255 * random.uniform();
  return color;
}

ImagePoint turned(const ImagePoint& point, const ImagePoint& centre, double scale, double angle) {
  const double c = std::cos(angle), s = std::sin(angle);
  return {centre.x + scale * (c * point.x - s * point.y), centre.y + scale * (s * point.x + c * point.y)};
}

// A bar of 8 to 40 by 1 to 4 pixels, or a triangle on a circle of radius 4 to 14, anywhere.
ClutterPiece draw_clutter(RandomSequence& random) {
  ClutterPiece piece;
  piece.color = draw_color(random);
  const ImagePoint centre = {kShapesSide * random.uniform(), kShapesSide * random.uniform()};
  if (random.below(2) == 0) {
    const double length = between_reals(random, 4, 20), half = between_reals(random, 0.5, 2);
    const double angle = std::numbers::pi * random.uniform();
    for (const ImagePoint& corner :
         {ImagePoint{-length, -half}, ImagePoint{length, -half}, ImagePoint{length, half}, ImagePoint{-length, half}}) {
      piece.corners.push_back(turned(corner, centre, 1, angle));
    }
  } else {
    const double radius = between_reals(random, 4, 14);
    for (int i = 0; i < 3; ++i) {
      piece.corners.push_back(turned({0, -1}, centre, radius, 2 * std::numbers::pi * (i + random.uniform()) / 3));
    }
  }
  return piece;
}

bool has_room(const PlacedShape& shape, const std::vector<PlacedShape>& others) {
  return std::ranges::all_of(others, [&](const PlacedShape& other) {
    const double dx = shape.centre.x - other.centre.x, dy = shape.centre.y - other.centre.y;
    return std::sqrt(dx * dx + dy * dy) >= kApart * (shape.radius + other.radius);
  });
}

bool is_inside(const std::vector<ImagePoint>& corners, double x, double y) {
  bool inside = false;
  for (size_t i = 0, j = corners.size() - 1; i < corners.size(); j = i++) {
    const ImagePoint &a = corners[i], &b = corners[j];
    if ((a.y > y) == (b.y > y)) continue;
    if (x < a.x + (b.x - a.x) * (y - a.y) / (b.y - a.y)) inside = !inside;
  }
  return inside;
}

// Calls visit(pixel) for each pixel whose centre is in the polygon.
template <class Visit>
void visit_pixels(const std::vector<ImagePoint>& corners, const Visit& visit) {
  const auto [left, right] = std::ranges::minmax(corners, {}, &ImagePoint::x);
  const auto [top, bottom] = std::ranges::minmax(corners, {}, &ImagePoint::y);
  const auto pixel = [](double value) {
    return static_cast<int64_t>(std::clamp<double>(std::floor(value), 0, kShapesSide - 1));
  };
  for (int64_t y = pixel(top.y); y <= pixel(bottom.y); ++y) {
    for (int64_t x = pixel(left.x); x <= pixel(right.x); ++x) {
      const bool inside = is_inside(corners, static_cast<double>(x) + 0.5, static_cast<double>(y) + 0.5);
      if (inside) visit(y * kShapesSide + x);
    }
  }
}

ImageBox bounds_of(const PixelMask& mask) {
  int64_t x0 = kShapesSide, y0 = kShapesSide, x1 = 0, y1 = 0;
  for (int64_t pixel = 0; pixel < ShapesOptions::pixels(); ++pixel) {
    if (!mask.has(pixel)) continue;
    const int64_t x = pixel % kShapesSide, y = pixel / kShapesSide;
    x0 = std::min(x0, x);
    x1 = std::max(x1, x + 1);
    y0 = std::min(y0, y);
    y1 = std::max(y1, y + 1);
  }
  return {static_cast<double>(x0), static_cast<double>(y0), static_cast<double>(x1), static_cast<double>(y1)};
}

// The image of a scene without noise, [128, 128, 3], and its instances.
struct DrawnScene {
  std::vector<ColorRgb> colors = std::vector<ColorRgb>(static_cast<size_t>(ShapesOptions::pixels()));
  std::vector<Instance> instances;

  explicit DrawnScene(const ShapesScene& scene) {
    draw_background(scene);
    for (const ClutterPiece& piece : scene.clutter) {
      visit_pixels(piece.corners, [&](int64_t pixel) { colors[static_cast<size_t>(pixel)] = piece.color; });
    }
    for (const PlacedShape& shape : scene.shapes) draw_shape(shape);
    std::erase_if(instances, [](const Instance& instance) { return instance.mask.count() == 0; });
    for (Instance& instance : instances) instance.box = bounds_of(instance.mask);
  }

  void draw_background(const ShapesScene& scene) {
    const double c = std::cos(scene.direction), s = std::sin(scene.direction);
    for (size_t pixel = 0; pixel < colors.size(); ++pixel) {
      const double x = static_cast<double>(pixel % kShapesSide) / kShapesSide - 0.5;
      const double y = static_cast<double>(pixel / kShapesSide) / kShapesSide - 0.5;
      const double share = std::clamp(0.5 + c * x + s * y, 0.0, 1.0);
      for (size_t k = 0; k < 3; ++k) {
        colors[pixel][k] = scene.background[0][k] + share * (scene.background[1][k] - scene.background[0][k]);
      }
    }
  }

  void draw_shape(const PlacedShape& shape) {
    Instance instance;
    instance.label = shape.label;
    instance.keypoints = shape_keypoints(shape);
    instance.mask = PixelMask(ShapesOptions::pixels());
    visit_pixels(shape_corners(shape), [&](int64_t pixel) {
      colors[static_cast<size_t>(pixel)] = shape.color;
      instance.mask.add(pixel);
    });
    for (Instance& earlier : instances) earlier.mask.remove(instance.mask);
    instances.push_back(std::move(instance));
  }
};

}  // namespace

void ShapesOptions::fields(ConfigFields& f) {
  f.field("most", most, "shapes of an image, at most", {.minimum = 1, .maximum = 8});
  f.field("clutter", clutter, "bars and triangles behind the shapes", {.minimum = 0, .maximum = 1000});
  f.field("turn", turn, "degrees by which a shape is turned to either side, at most", {.minimum = 0, .maximum = 180});
  f.field("noise", noise, "largest change of a value, in parts of the range", {.minimum = 0, .maximum = 1});
}

std::string ShapesOptions::text() const {
  return fmt::format("at most {} shapes turned by {}, clutter {}, noise {}", most, turn, clutter, noise);
}

const char* shape_name(int64_t label) {
  return outlines().at(static_cast<size_t>(label)).name;
}

std::vector<ImagePoint> shape_corners(const PlacedShape& shape) {
  std::vector<ImagePoint> corners;
  for (const ImagePoint& corner : outlines().at(static_cast<size_t>(shape.label)).corners) {
    corners.push_back(turned(corner, shape.centre, shape.radius, shape.angle));
  }
  return corners;
}

std::array<ImagePoint, kInstanceKeypoints> shape_keypoints(const PlacedShape& shape) {
  auto points = outlines().at(static_cast<size_t>(shape.label)).keypoints;
  for (ImagePoint& point : points) point = turned(point, shape.centre, shape.radius, shape.angle);
  return points;
}

ShapesKeypoints::ShapesKeypoints(const ShapesOptions& options, uint64_t seed, std::string_view stream)
    : options_(options), seed_(seed), streams_(seed, stream) {}

CounterRandom ShapesKeypoints::of_sample(int64_t sample) const {
  return {seed_, streams_.bits(static_cast<uint64_t>(sample))};
}

ShapesScene ShapesKeypoints::scene(int64_t sample) const {
  RandomSequence random(of_sample(sample));
  ShapesScene scene;
  scene.background = {draw_color(random), draw_color(random)};
  scene.direction = 2 * std::numbers::pi * random.uniform();
  for (int64_t i = 0; i < options_.clutter; ++i) scene.clutter.push_back(draw_clutter(random));
  const auto wanted = static_cast<int64_t>(random.between(1, static_cast<uint64_t>(options_.most)));
  for (int64_t i = 0; i < wanted; ++i) {
    PlacedShape shape;
    shape.label = static_cast<int64_t>(random.below(ShapesOptions::kClasses));
    shape.radius = between_reals(random, kSmallestRadius, kLargestRadius);
    shape.angle = options_.turn * std::numbers::pi / 180 * between_reals(random, -1, 1);
    shape.color = draw_color(random);
    for (int tries = 0; tries < kPlacementTries; ++tries) {
      shape.centre.x = between_reals(random, shape.radius, kShapesSide - shape.radius);
      shape.centre.y = between_reals(random, shape.radius, kShapesSide - shape.radius);
      if (!has_room(shape, scene.shapes)) continue;
      scene.shapes.push_back(shape);
      break;
    }
  }
  return scene;
}

std::vector<Instance> ShapesKeypoints::draw(int64_t sample, uint8_t* pixels) const {
  DrawnScene drawn(scene(sample));
  const CounterRandom random = of_sample(sample);
  uint64_t bits = 0;  // eight bytes of noise
  for (size_t i = 0; i < drawn.colors.size() * 3; ++i) {
    if (i % 8 == 0) bits = random.bits(kShapesNoisePosition + i / 8);
    const double noise = (static_cast<double>(bits >> (8 * (i % 8)) & 255) - 127.5) / 127.5;
    const double value = drawn.colors[i / 3][i % 3] + 255 * options_.noise * noise;
    pixels[i] = static_cast<uint8_t>(std::lround(std::clamp(value, 0.0, 255.0)));
  }
  return std::move(drawn.instances);
}

}  // namespace loci
