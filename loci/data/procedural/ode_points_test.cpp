#include "loci/data/procedural/ode_points.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace loci {
namespace {

constexpr int64_t kSamples = 20000;

TEST(OdePoints, ReflectionIsUniform) {
  std::vector<float> x(kSamples);
  OdePoints(OdeSet::reflection, 1, "test").fill(0, kSamples, x.data(), nullptr);
  double mean = 0, square = 0;
  for (const double one : x) mean += one / kSamples, square += one * one / kSamples;
  EXPECT_NEAR(mean, 0, 0.02);
  EXPECT_NEAR(square, 1.0 / 3, 0.01);
  EXPECT_LE(*std::max_element(x.begin(), x.end()), 1);
  EXPECT_GE(*std::min_element(x.begin(), x.end()), -1);
}

TEST(OdePoints, AnnuliAreUniformInAreaAndInAngle) {
  std::vector<float> x(2 * kSamples);
  std::vector<int64_t> labels(kSamples);
  OdePoints(OdeSet::annuli, 1, "test").fill(0, kSamples, x.data(), labels.data());
  double outer = 0, half_disc = 0, half_ring = 0, mean_x = 0, mean_y = 0;
  for (size_t i = 0; i < kSamples; ++i) {
    const double radius = std::hypot(x[2 * i], x[2 * i + 1]);
    mean_x += x[2 * i] / kSamples, mean_y += x[2 * i + 1] / kSamples;
    if (labels[i] == 0) {
      EXPECT_LE(radius, 0.5 + 1e-6);
      half_disc += radius < 0.5 / std::sqrt(2.0) ? 1 : 0;  // half of the area
      continue;
    }
    outer += 1;
    EXPECT_TRUE(radius >= 1 - 1e-6 && radius <= 1.5 + 1e-6) << radius;
    half_ring += radius < std::sqrt(1.625) ? 1 : 0;
  }
  EXPECT_NEAR(outer / kSamples, 0.5, 0.02);
  EXPECT_NEAR(half_disc / (kSamples - outer), 0.5, 0.02);
  EXPECT_NEAR(half_ring / outer, 0.5, 0.02);
  EXPECT_NEAR(mean_x, 0, 0.03);
  EXPECT_NEAR(mean_y, 0, 0.03);
}

TEST(OdePoints, ASampleIsAFunctionOfItsNumber) {
  std::vector<float> all(8), part(4), other(4);
  std::vector<int64_t> labels(4);
  const OdePoints points(OdeSet::annuli, 1, "test");
  points.fill(0, 4, all.data(), labels.data());
  points.fill(2, 2, part.data(), labels.data());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 4));
  OdePoints(OdeSet::annuli, 1, "training").fill(2, 2, other.data(), labels.data());
  EXPECT_FALSE(std::equal(part.begin(), part.end(), other.begin()));
  OdePoints(OdeSet::annuli, 2, "test").fill(2, 2, other.data(), labels.data());
  EXPECT_FALSE(std::equal(part.begin(), part.end(), other.begin()));
}

}  // namespace
}  // namespace loci
