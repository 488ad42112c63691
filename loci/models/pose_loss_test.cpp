#include "loci/models/pose_loss.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <cmath>
#include <numbers>

namespace loci {
namespace {

Quaternion turned(double degrees, const Vector3& axis) {
  const double half = degrees * std::numbers::pi / 360;
  return {std::cos(half), std::sin(half) * axis[0], std::sin(half) * axis[1], std::sin(half) * axis[2]};
}

std::vector<Pose> two_poses() {
  return {{{1, 2, 3}, turned(90, {0, 0, 1})}, {{-1, 0, 2}, turned(180, {1, 0, 0})}};
}

TEST(PoseLossTest, NumbersAreThoseOfTheFormulas) {
  const double root = std::sqrt(0.5);
  // Predictions: 5 m and 1 m away; twice the true quaternion, and one at a right angle to the true one.
  const auto position = torch::tensor({{4.0, 6.0, 3.0}, {-1.0, 1.0, 2.0}}, torch::kDouble);
  const auto rotation = torch::tensor({{2 * root, 0.0, 0.0, 2 * root}, {0.0, 0.0, 3.0, 0.0}}, torch::kDouble);
  const double metres = 3, turn = std::sqrt(2.0) / 2;

  PoseLoss beta({PoseLossKind::beta, 10});
  const auto [t, q] = beta.targets(two_poses());
  EXPECT_NEAR(beta.forward(position, rotation, t, q).item<double>(), metres + 10 * turn, 1e-6);
  EXPECT_TRUE(beta.parameters().empty());

  PoseLoss learned({PoseLossKind::learned});
  EXPECT_NEAR(learned.forward(position, rotation, t, q).item<double>(), metres + turn * std::exp(3) - 3, 1e-5);
  EXPECT_EQ(learned.parameters().size(), 2U);

  // Logarithms: half the angle along the axis.
  PoseLoss logarithms({PoseLossKind::logq});
  const auto [t3, v] = logarithms.targets(two_poses());
  EXPECT_EQ(v.size(1), 3);
  EXPECT_NEAR(v[0][2].item<double>(), std::numbers::pi / 4, 1e-6);
  EXPECT_NEAR(v[1][0].item<double>(), std::numbers::pi / 2, 1e-6);
  const auto zeros = torch::zeros({2, 3}, torch::kDouble);
  EXPECT_NEAR(logarithms.forward(position, zeros, t3, v).item<double>(),
              (7.0 + 1) / 2 + (std::numbers::pi / 4 + std::numbers::pi / 2) / 2 * std::exp(3) - 3, 1e-5);
}

TEST(PoseLossTest, AQuaternionAndItsNegativeAreOnePose) {
  const PoseLoss loss({PoseLossKind::learned});
  Pose pose = two_poses()[0], negative = pose;
  const Quaternion q = pose.rotation;
  negative.rotation = {-q.w, -q.x, -q.y, -q.z};
  EXPECT_TRUE(loss.targets({&pose, 1}).second.equal(loss.targets({&negative, 1}).second));
}

TEST(PoseLossTest, PosesComeBack) {
  for (const PoseLossKind kind : {PoseLossKind::beta, PoseLossKind::learned, PoseLossKind::logq}) {
    const PoseLoss loss({kind});
    std::vector<Pose> truth = two_poses();
    truth.push_back({{0, 0, 0}, {}});  // no rotation
    const auto [t, q] = loss.targets(truth);
    const std::vector<Pose> poses = loss.poses(t, 5 * q.to(torch::kFloat) / (kind == PoseLossKind::logq ? 5 : 1));
    ASSERT_EQ(poses.size(), 3U);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_LT(distance_between(poses[i].position, truth[i].position), 1e-6);
      EXPECT_LT(degrees_between(poses[i].rotation, truth[i].rotation), 1e-2);
    }
  }
}

TEST(PoseLossTest, GradientsAreFiniteAtZeroError) {
  PoseLoss loss({PoseLossKind::learned});
  const auto [t, q] = loss.targets(two_poses());
  const auto position = t.clone().requires_grad_(), rotation = torch::zeros({2, 4}).requires_grad_();
  loss.forward(position, rotation, t, q).backward();
  EXPECT_TRUE(position.grad().eq(0).all().item<bool>());
  EXPECT_TRUE(rotation.grad().isfinite().all().item<bool>());
  EXPECT_NEAR(loss.s.grad().item<double>(), 1, 1e-6);  // 1 - L_t e^-s
}

TEST(PoseLossTest, AnotherWidthIsRefused) {
  PoseLoss loss({PoseLossKind::logq});
  const auto [t, v] = loss.targets(two_poses());
  EXPECT_THROW(loss.forward(t, torch::zeros({2, 4}), t, v), c10::Error);
  try {
    loss.forward(t, torch::zeros({2, 4}), t, v);
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what_without_backtrace())
                  .find("pose_loss: rotation must be [B, 3] like the true one, got [2, 4] and [2, 3]"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace loci
