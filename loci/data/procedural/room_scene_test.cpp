#include "loci/data/procedural/room_scene.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <set>
#include <span>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/data/procedural/room_data.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

std::string sum_of(const std::vector<uint8_t>& pixels) {
  return checksum(std::as_bytes(std::span(pixels)));
}

std::vector<uint8_t> all_pixels(const ImageSet& images) {
  std::vector<uint8_t> pixels(static_cast<size_t>(images.size() * images.shape().bytes()));
  for (int64_t i = 0; i < images.size(); ++i) images.read(i, pixels.data() + i * images.shape().bytes());
  return pixels;
}

RoomData small_room(int64_t seed) {
  ProgressLine quiet(true);
  return make_room_data({.width = 32, .height = 24, .train_paths = 2, .test_paths = 1, .frames = 5, .scene_seed = seed},
                        quiet);
}

TEST(RoomSceneTest, TheSameSeedGivesTheSameThings) {
  std::set<size_t> counts;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const RoomScene scene(seed), again(seed);
    ASSERT_EQ(scene.things().size(), again.things().size());
    EXPECT_GE(scene.things().size(), 20u);
    EXPECT_LE(scene.things().size(), 50u);
    counts.insert(scene.things().size());
    for (const RoomThing& thing : scene.things()) {
      for (int axis = 0; axis < 3; ++axis) {
        EXPECT_GE(thing.centre[axis] - thing.half[axis], 0);
        EXPECT_LE(thing.centre[axis] + thing.half[axis], kRoomSize[axis]);
      }
    }
  }
  EXPECT_GT(counts.size(), 10u);
}

TEST(RoomSceneTest, ARayHitsWhereItsPointProjects) {
  const RoomScene scene(3);
  const RoomCamera camera;
  for (const Pose& pose : room_path(scene, 3, 0, 12)) {
    for (double v = 0.5; v < 60; v += 7) {
      for (double u = 0.5; u < 80; u += 7) {
        const RoomHit hit = scene.trace(pose, camera, u, v);
        EXPECT_NEAR(scene.clearance(hit.point), 0, 1e-9) << "on a surface";
        const RoomProjection back = project(pose, camera, hit.point);
        EXPECT_NEAR(back.u, u, 1e-9);
        EXPECT_NEAR(back.v, v, 1e-9);
        EXPECT_NEAR(back.depth, hit.depth, 1e-9);
      }
    }
  }
}

TEST(RoomSceneTest, ASpheresCentreLiesInItsMask) {
  const RoomScene scene(1);
  const RoomCamera camera;
  int visible = 0;
  for (const Pose& pose : room_path(scene, 1, 0, 40)) {
    const RoomFrame frame = scene.render(pose, camera);
    for (size_t i = 0; i < scene.things().size(); ++i) {
      const RoomThing& thing = scene.things()[i];
      if (!thing.sphere) continue;
      const RoomProjection centre = project(pose, camera, thing.centre);
      if (centre.depth <= 0 || centre.u < 0 || centre.u >= 80 || centre.v < 0 || centre.v >= 60) continue;
      const auto at = static_cast<size_t>(centre.v) * 80 + static_cast<size_t>(centre.u);
      EXPECT_LT(frame.depth[at], centre.depth) << "its front, or what hides it";
      if (frame.object[at] == static_cast<int32_t>(i) + 6) ++visible;
    }
  }
  EXPECT_GT(visible, 50);
}

// A point of one view lies in the other at the depth that it must have there, or something nearer hides it.
TEST(RoomSceneTest, DepthWarpsOneViewOntoAnother) {
  const RoomScene scene(2);
  const RoomCamera camera;
  const std::vector<Pose> path = room_path(scene, 2, 0, 250);
  int64_t seen = 0, hidden = 0;
  for (size_t first = 0; first + 5 < path.size(); first += 49) {
    const Pose &from = path[first], &to = path[first + 5];
    const RoomFrame frame = scene.render(from, camera);
    for (int64_t y = 0; y < camera.height; ++y) {
      for (int64_t x = 0; x < camera.width; ++x) {
        // The world point of the pixel from its stored depth alone.
        const double u = static_cast<double>(x) + 0.5, v = static_cast<double>(y) + 0.5;
        const double depth = frame.depth[y * camera.width + x];
        const Matrix3 m = matrix_of(from.rotation);
        const Vector3 local = {(u - 40) / camera.focal() * depth, (v - 30) / camera.focal() * depth, depth};
        Vector3 world = from.position;
        for (int i = 0; i < 9; ++i) world[i / 3] += m[i] * local[i % 3];
        const RoomProjection there = project(to, camera, world);
        if (there.depth <= 0 || there.u < 0 || there.u >= 80 || there.v < 0 || there.v >= 60) continue;
        const RoomHit hit = scene.trace(to, camera, there.u, there.v);
        if (hit.depth < there.depth - 1e-3) {
          ++hidden;
          continue;
        }
        ++seen;
        const RoomProjection back = project(from, camera, hit.point);
        EXPECT_LT(std::hypot(back.u - u, back.v - v), 1) << "warped to another pixel";
      }
    }
  }
  EXPECT_GT(seen, 10000);
  EXPECT_LT(hidden, seen / 4);
}

TEST(RoomSceneTest, NoiseHasItsDeviationAndItsKey) {
  const RoomScene scene(4);
  const Pose pose = room_path(scene, 4, 0, 1)[0];
  const std::vector<uint8_t> plain = scene.render(pose, {}).image.pixels;
  const std::vector<uint8_t> noisy = scene.render(pose, {}, {0.02, 1, 7}).image.pixels;
  EXPECT_EQ(noisy, scene.render(pose, {}, {0.02, 1, 7}).image.pixels);
  EXPECT_NE(noisy, scene.render(pose, {}, {0.02, 1, 8}).image.pixels);
  EXPECT_NE(noisy, scene.render(pose, {}, {0.02, 2, 7}).image.pixels);
  double squares = 0, count = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    if (plain[i] < 25 || plain[i] > 230) continue;  // clipped
    squares += (plain[i] - noisy[i]) * (plain[i] - noisy[i]);
    ++count;
  }
  EXPECT_NEAR(std::sqrt(squares / count) / 255, 0.02, 0.001);
}

TEST(RoomSceneTest, TheCameraMustBeInFreeSpace) {
  const RoomScene scene(5);
  Pose pose;
  pose.position = {-1, 1, 1};
  expect_error(ExitCode::usage, "the camera must be in the room and outside of things, got -1.00 1.00 1.00",
               [&] { scene.render(pose, {}); });
  pose.position = scene.things()[0].centre;
  expect_error(ExitCode::usage, "outside of things", [&] { scene.render(pose, {}); });
}

TEST(RoomPathTest, EveryFrameIsClearAndUpright) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const RoomScene scene(seed);
    for (int64_t path = 0; path < 3; ++path) {
      for (const Pose& pose : room_path(scene, seed, path, 100)) {
        EXPECT_GE(scene.clearance(pose.position), 0.1);
        const Matrix3 m = matrix_of(pose.rotation);
        EXPECT_LE(std::abs(m[6]), std::sin(5 * std::numbers::pi / 180) + 1e-12) << "roll";
        EXPECT_LT(m[7], -0.7) << "down points down";
      }
      for (const Pose& pose : room_path(scene, seed, path, 8)) {  // the points themselves
        EXPECT_GE(scene.clearance(pose.position), 0.3 - 1e-12);
        EXPECT_GE(pose.position[2], 0.8);
        EXPECT_LE(pose.position[2], 2.0);
      }
    }
  }
}

// Yaw goes the short way to the next target, at most 180 degrees in 250 frames and half as fast again in between. The
// camera of some paths has turned once around when they close.
TEST(RoomPathTest, APathIsClosedAndSmooth) {
  const RoomScene scene(6);
  std::set<Vector3> starts;
  for (int64_t number = 0; number < 8; ++number) {
    const std::vector<Pose> path = room_path(scene, 6, number, 2000);
    starts.insert(path[0].position);
    for (size_t i = 0; i < path.size(); ++i) {
      const Pose& next = path[(i + 1) % path.size()];
      EXPECT_LT(distance_between(path[i].position, next.position), 0.06);
      EXPECT_LT(degrees_between(path[i].rotation, next.rotation), 1.3);
    }
  }
  EXPECT_EQ(starts.size(), 8u);
}

TEST(RoomDataTest, TheBytesAreThoseOfTheFramesOneByOne) {
  const RoomData data = small_room(7);
  const RoomScene scene(7);
  ASSERT_EQ(data.images.size(), 15);
  std::vector<uint8_t> pixels(static_cast<size_t>(data.images.shape().bytes()));
  for (int64_t i = 0; i < 15; ++i) {
    data.images.read(i, pixels.data());
    const RoomNoise noise = {0.02, 7, static_cast<uint64_t>(i)};
    EXPECT_EQ(pixels, scene.render(data.poses[i], {32, 24}, noise).image.pixels) << i;
  }
  EXPECT_THAT(data.path, testing::ElementsAre(0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2));
  EXPECT_THAT(data.split.test, testing::ElementsAre(10, 11, 12, 13, 14));
  EXPECT_EQ(data.split.train.size(), 10u);
}

// The sum of the first version: a seed keeps its room, so that results can be repeated.
TEST(RoomDataTest, ASeedKeepsItsBytes) {
  const std::string sum = sum_of(all_pixels(small_room(0).images));
  EXPECT_EQ(sum, sum_of(all_pixels(small_room(0).images)));
  EXPECT_NE(sum, sum_of(all_pixels(small_room(1).images)));
  EXPECT_EQ(sum, "d5b43431a7b71e4996412c2d69094b33");
}

}  // namespace
}  // namespace loci
