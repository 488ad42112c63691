#include "loci/data/poses/rotation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "loci/base/random.h"

namespace loci {
namespace {

// Random rotations; some by nearly no angle, some by nearly a half turn.
std::vector<Quaternion> many_rotations() {
  const CounterRandom random(1, "rotations");
  std::vector<Quaternion> result = {{}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}, {1, 1e-9, 0, 0}, {1e-9, 0, 1, 0}};
  for (uint64_t i = 0; i < 400; i += 4) {
    result.push_back({random.normal(i), random.normal(i + 1), random.normal(i + 2), random.normal(i + 3)});
  }
  for (Quaternion& q : result) q = canonical(q);
  return result;
}

Quaternion negated(const Quaternion& q) {
  return {-q.w, -q.x, -q.y, -q.z};
}

void expect_same(const Quaternion& a, const Quaternion& b) {
  EXPECT_NEAR(degrees_between(a, b), 0, 1e-6);
}

TEST(RotationTest, ARotationHasOneCanonicalQuaternion) {
  for (const Quaternion& q : many_rotations()) {
    EXPECT_NEAR(q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z, 1, 1e-14);
    EXPECT_GE(q.w, 0);
    EXPECT_EQ(canonical(negated(q)), canonical(q));
  }
  EXPECT_EQ(canonical({0, 0, -2, 1}), canonical({0, 0, 2, -1}));
  EXPECT_GT(canonical({0, 0, -2, 1}).y, 0);
  EXPECT_EQ(canonical({0, 0, 0, 0}), Quaternion());
}

TEST(RotationTest, MatricesAndQuaternionsAreTheSameRotations) {
  for (const Quaternion& q : many_rotations()) {
    const Matrix3 m = matrix_of(q);
    EXPECT_LT(orthogonality_error(m), 1e-14);
    EXPECT_NEAR(determinant(m), 1, 1e-14);
    expect_same(quaternion_of(m), q);
  }
  // A quarter turn about z takes x to y.
  const Matrix3 quarter = matrix_of({std::sqrt(0.5), 0, 0, std::sqrt(0.5)});
  const Matrix3 expected = {0, -1, 0, 1, 0, 0, 0, 0, 1};
  for (int i = 0; i < 9; ++i) EXPECT_NEAR(quarter[i], expected[i], 1e-15);
}

TEST(RotationTest, TheLogarithmIsHalfTheAngleAlongTheAxis) {
  for (const Quaternion& q : many_rotations()) {
    expect_same(exp_of(log_of(q)), q);
    EXPECT_EQ(log_of(negated(q)), log_of(q));
    const double half = distance_between(log_of(q), {0, 0, 0});
    EXPECT_NEAR(half, std::acos(std::min(1.0, q.w)), 1e-7);
  }
  EXPECT_EQ(log_of({}), (Vector3{0, 0, 0}));
  const Vector3 half_turn = log_of({0, 0, 1, 0});
  EXPECT_NEAR(half_turn[1], std::numbers::pi / 2, 1e-15);
  const Vector3 small = log_of({1, 1e-12, 0, 0});
  EXPECT_DOUBLE_EQ(small[0], 1e-12);
}

TEST(RotationTest, AnglesAreMeasuredFromZeroToAHalfTurn) {
  for (const double degrees : {0.0, 1e-6, 30.0, 90.0, 179.0, 180.0}) {
    const double half = degrees * std::numbers::pi / 360;
    const Quaternion turned = {std::cos(half), 0, std::sin(half), 0};
    EXPECT_NEAR(degrees_between({}, turned), degrees, 1e-12);
    EXPECT_NEAR(degrees_between(turned, {-1, 0, 0, 0}), degrees, 1e-12);
  }
  const std::vector<Quaternion> all = many_rotations();
  for (size_t i = 1; i < all.size(); ++i) {
    const Quaternion &a = all[i - 1], &b = all[i];
    const double inner = std::abs(a.w * b.w + a.x * b.x + a.y * b.y + a.z * b.z);
    EXPECT_NEAR(degrees_between(a, b), 2 * std::acos(std::min(1.0, inner)) * 180 / std::numbers::pi, 1e-5);
  }
}

// R is nearest to M when R^T M is symmetric with positive eigenvalues: no small rotation of R comes nearer.
TEST(RotationTest, TheNearestRotationIsNearest) {
  const CounterRandom random(2, "noise");
  uint64_t draw = 0;
  const auto distance = [](const Matrix3& a, const Matrix3& b) {
    double sum = 0;
    for (int i = 0; i < 9; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
  };
  for (const Quaternion& q : many_rotations()) {
    Matrix3 m = matrix_of(q);
    for (double& entry : m) entry += 0.05 * random.normal(draw++);
    const Matrix3 nearest = nearest_rotation(m);
    EXPECT_LT(orthogonality_error(nearest), 1e-14);
    EXPECT_NEAR(determinant(nearest), 1, 1e-14);
    for (int axis = 0; axis < 3; ++axis) {
      for (const double turn : {-1e-3, 1e-3}) {
        Vector3 log = {};
        log[axis] = turn;
        const Matrix3 small = matrix_of(exp_of(log));
        Matrix3 other = {};
        for (int i = 0; i < 9; ++i) {
          for (int k = 0; k < 3; ++k) other[i] += nearest[i / 3 * 3 + k] * small[k * 3 + i % 3];
        }
        EXPECT_GT(distance(other, m), distance(nearest, m));
      }
    }
  }
}

TEST(RotationTest, AReflectionHasANegativeDeterminant) {
  EXPECT_EQ(determinant({1, 0, 0, 0, 1, 0, 0, 0, -1}), -1);
  EXPECT_EQ(orthogonality_error({1, 0, 0, 0, 1, 0, 0, 0, -1}), 0);
  EXPECT_EQ(orthogonality_error({2, 0, 0, 0, 1, 0, 0, 0, 1}), 3);
  EXPECT_EQ(determinant({1, 2, 3, 4, 5, 6, 7, 8, 10}), -3);
}

}  // namespace
}  // namespace loci
