#include "loci/data/procedural/shapes_keypoints.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>

namespace loci {
namespace {

constexpr int64_t kEdge = ShapesOptions::kSide;

std::vector<uint8_t> shapes_image(const ShapesOptions& options, uint64_t seed, int64_t sample,
                                  const char* stream = "test") {
  std::vector<uint8_t> pixels(static_cast<size_t>(3 * ShapesOptions::pixels()));
  ShapesKeypoints(options, seed, stream).draw(sample, pixels.data());
  return pixels;
}

TEST(ShapesKeypointsTest, ShapesAreWholeApartAndOfEveryKind) {
  const ShapesKeypoints shapes({}, 5, "test");
  std::array<int64_t, 3> labels = {}, counts = {};
  double smallest = 100, largest = 0;
  std::set<int64_t> octants;
  for (int64_t sample = 0; sample < 3000; ++sample) {
    const ShapesScene scene = shapes.scene(sample);
    ASSERT_EQ(scene.clutter.size(), 12u);
    ASSERT_GE(scene.shapes.size(), 1u);
    ++counts.at(scene.shapes.size() - 1);
    for (size_t i = 0; i < scene.shapes.size(); ++i) {
      const PlacedShape& shape = scene.shapes[i];
      ++labels.at(static_cast<size_t>(shape.label));
      smallest = std::min(smallest, shape.radius);
      largest = std::max(largest, shape.radius);
      octants.insert(static_cast<int64_t>(std::floor(shape.angle / 0.7853981633974483)));
      for (const ImagePoint& corner : shape_corners(shape)) {
        ASSERT_TRUE(corner.x >= 0 && corner.y >= 0 && corner.x <= kEdge && corner.y <= kEdge);
      }
      for (size_t j = 0; j < i; ++j) {
        const PlacedShape& other = scene.shapes[j];
        const double distance = std::hypot(shape.centre.x - other.centre.x, shape.centre.y - other.centre.y);
        ASSERT_GE(distance, 0.5 * (shape.radius + other.radius));
      }
    }
  }
  const int64_t all = labels[0] + labels[1] + labels[2];
  for (const int64_t hits : labels) {
    EXPECT_NEAR(static_cast<double>(hits), static_cast<double>(all) / 3,
                5 * std::sqrt(static_cast<double>(all) * 2 / 9));
  }
  for (const int64_t hits : counts) EXPECT_NEAR(static_cast<double>(hits), 1000, 5 * std::sqrt(3000 * 2.0 / 9));
  EXPECT_NEAR(smallest, 14, 0.1);
  EXPECT_NEAR(largest, 26, 0.1);
  EXPECT_EQ(octants.size(), 8u);
  const ShapesKeypoints upright({.turn = 0}, 5, "test");
  for (int64_t sample = 0; sample < 20; ++sample) EXPECT_EQ(upright.scene(sample).shapes[0].angle, 0);
}

// By hand: an ell of radius 20 at (50, 60), turned by a quarter: (x, y) goes to (50 - 20 y, 60 + 20 x).
TEST(ShapesKeypointsTest, CornersAndKeypointsAreTurnedClockwise) {
  const PlacedShape ell{.label = 2, .centre = {50, 60}, .radius = 20, .angle = std::acos(-1.0) / 2, .color = {}};
  const std::array<ImagePoint, 4> wanted = {{{66, 48}, {46, 60}, {41, 74}, {36, 48}}};
  const auto got = shape_keypoints(ell);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(got[i].x, wanted[i].x, 1e-9) << i;
    EXPECT_NEAR(got[i].y, wanted[i].y, 1e-9) << i;
  }
  EXPECT_NEAR(shape_corners(ell)[3].x, 46, 1e-9);
  EXPECT_NEAR(shape_corners(ell)[3].y, 74, 1e-9);
  EXPECT_STREQ(shape_name(2), "ell");
}

// Twice the signed area of a polygon, by the coordinates of its corners.
double doubled_area(const std::vector<ImagePoint>& corners) {
  double sum = 0;
  for (size_t i = 0; i < corners.size(); ++i) {
    const ImagePoint &a = corners[i], &b = corners[(i + 1) % corners.size()];
    sum += a.x * b.y - b.x * a.y;
  }
  return std::abs(sum);
}

TEST(ShapesKeypointsTest, MasksShowWhatIsSeen) {
  const ShapesOptions plain{.most = 8, .clutter = 0, .noise = 0};
  const ShapesKeypoints shapes(plain, 6, "test");
  std::vector<uint8_t> pixels(static_cast<size_t>(3 * ShapesOptions::pixels()));
  int64_t covered = 0;
  for (int64_t sample = 0; sample < 60; ++sample) {
    const ShapesScene scene = shapes.scene(sample);
    const std::vector<Instance> instances = shapes.draw(sample, pixels.data());
    ASSERT_EQ(instances.size(), scene.shapes.size());
    for (size_t i = 0; i < instances.size(); ++i) {
      const Instance& instance = instances[i];
      ASSERT_EQ(instance.label, scene.shapes[i].label);
      EXPECT_EQ(instance.keypoints, shape_keypoints(scene.shapes[i]));
      // Every pixel of a mask has the shape's colour; masks share no pixel; the box is tight.
      double x0 = kEdge, y0 = kEdge, x1 = 0, y1 = 0;
      for (int64_t pixel = 0; pixel < ShapesOptions::pixels(); ++pixel) {
        if (!instance.mask.has(pixel)) continue;
        for (size_t k = 0; k < 3; ++k) {
          ASSERT_EQ(pixels[static_cast<size_t>(3 * pixel) + k], std::lround(scene.shapes[i].color[k]));
        }
        const auto x = static_cast<double>(pixel % kEdge), y = static_cast<double>(pixel / kEdge);
        x0 = std::min(x0, x), y0 = std::min(y0, y), x1 = std::max(x1, x + 1), y1 = std::max(y1, y + 1);
      }
      EXPECT_EQ(instance.box, (ImageBox{x0, y0, x1, y1}));
      for (size_t j = 0; j < i; ++j) EXPECT_EQ(instance.mask.count_shared(instances[j].mask), 0);
      // As many pixels as the polygon's area, unless a later shape covers some.
      const double area = doubled_area(shape_corners(scene.shapes[i])) / 2;
      const auto seen = static_cast<double>(instance.mask.count());
      EXPECT_LE(seen, area * 1.1 + 5);
      const bool is_last = i + 1 == instances.size();
      EXPECT_GE(seen, is_last ? 0.9 * area - 5 : 1) << "nothing covers the last";
      covered += seen < 0.9 * area - 5 ? 1 : 0;
    }
  }
  EXPECT_GT(covered, 5);
}

TEST(ShapesKeypointsTest, NoiseIsUniformWithinItsBounds) {
  const std::vector<uint8_t> plain = shapes_image({.noise = 0}, 1, 3), noisy = shapes_image({.noise = 0.2}, 1, 3);
  double sum = 0, squares = 0, count = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double change = static_cast<double>(noisy[i]) - plain[i];
    ASSERT_LE(std::abs(change), 52);
    if (plain[i] < 52 || plain[i] > 203) continue;  // where no value is cut off
    sum += change;
    squares += change * change;
    ++count;
  }
  ASSERT_GT(count, 5000);
  const double variance = 51 * 51 / 3.0;
  EXPECT_NEAR(sum / count, 0, 5 * std::sqrt(variance / count) + 0.1);
  EXPECT_NEAR(squares / count, variance, 0.05 * variance);
}

TEST(ShapesKeypointsTest, ASampleIsTheSameAloneAndInAnyThread) {
  std::vector<uint8_t> threaded(static_cast<size_t>(3 * ShapesOptions::pixels()));
  std::thread([&] { ShapesKeypoints({}, 8, "test").draw(7, threaded.data()); }).join();
  EXPECT_EQ(threaded, shapes_image({}, 8, 7));
  EXPECT_NE(threaded, shapes_image({}, 8, 8));
  EXPECT_NE(threaded, shapes_image({}, 9, 7));
  EXPECT_NE(threaded, shapes_image({}, 8, 7, "other"));
}

}  // namespace
}  // namespace loci
