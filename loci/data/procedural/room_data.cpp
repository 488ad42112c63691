#include "loci/data/procedural/room_data.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <numbers>

#include "loci/base/check.h"
#include "loci/base/random_sequence.h"
#include "loci/base/stop_signal.h"
#include "loci/data/parallel_items.h"

namespace loci {
namespace {

constexpr int64_t kKnots = 8;
constexpr double kKnotClearance = 0.3, kPathClearance = 0.1;  // metres
constexpr double kLowestKnot = 0.8, kHighestKnot = 2.0;
constexpr double kMostPitch = 40 * std::numbers::pi / 180;
constexpr double kMostRoll = 5 * std::numbers::pi / 180;
constexpr int kMostKnotChanges = 20000;

using Knots = std::array<double, kKnots>;

// A closed Catmull-Rom spline at `at`, 0 .. kKnots. Each round adds `turn`, which only angles have.
double spline(const Knots& knots, double at, double turn = 0) {
  const auto whole = static_cast<int64_t>(std::floor(at));
  const double t = at - static_cast<double>(whole);
  const auto knot = [&](int64_t i) {
    const int64_t round = i < 0 ? -1 : i / kKnots;
    return knots[i - round * kKnots] + turn * static_cast<double>(round);
  };
  const double a = knot(whole - 1), b = knot(whole), c = knot(whole + 1), d = knot(whole + 2);
  return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)));
}

double spline_time(int64_t frame, int64_t frames) {
  return static_cast<double>(frame) * static_cast<double>(kKnots) / static_cast<double>(frames);
}

// The points of a path, replaced one after another until every frame has its clearance: a path that is drawn once
// almost always hits something.
class PathPoints {
 public:
  PathPoints(const RoomScene& scene, RandomSequence& random, int64_t frames)
      : scene_(scene), random_(random), frames_(frames) {
    for (int64_t k = 0; k < kKnots; ++k) set(k, free_point());
    Blocked blocked = blocked_frames();
    for (int changes = 0; blocked.count > 0; ++changes) {
      if (changes == kMostKnotChanges) {
        fail(ExitCode::usage, "room_path", "the room must have a free path", fmt::format("none in {} tries", changes));
      }
      const int64_t segment = static_cast<int64_t>(spline_time(blocked.first, frames_));
      const int64_t k = (segment + static_cast<int64_t>(random_.below(4)) + kKnots - 1) % kKnots;
      const Vector3 before = point_of(k);
      set(k, free_point());
      const Blocked now = blocked_frames();
      if (now.count > blocked.count) {
        set(k, before);
      } else {
        blocked = now;
      }
    }
  }

  Vector3 at(double time) const { return {spline(axes_[0], time), spline(axes_[1], time), spline(axes_[2], time)}; }
  Vector3 point_of(int64_t k) const { return {axes_[0][k], axes_[1][k], axes_[2][k]}; }

 private:
  struct Blocked {
    int64_t count = 0;
    int64_t first = 0;
  };

  Vector3 free_point() {
    for (int tries = 0; tries < kMostKnotChanges; ++tries) {
      Vector3 point = {};
      for (int axis = 0; axis < 3; ++axis) point[axis] = kRoomSize[axis] * random_.uniform();
      point[2] = kLowestKnot + (kHighestKnot - kLowestKnot) * point[2] / kRoomSize[2];
      if (scene_.clearance(point) >= kKnotClearance) return point;
    }
    fail(ExitCode::usage, "room_path", "the room must have free points", "none");
  }
  void set(int64_t k, const Vector3& point) {
    for (int axis = 0; axis < 3; ++axis) axes_[axis][k] = point[axis];
  }
  Blocked blocked_frames() const {
    Blocked blocked;
    for (int64_t frame = 0; frame < frames_; ++frame) {
      if (scene_.clearance(at(spline_time(frame, frames_))) >= kPathClearance) continue;
      if (blocked.count++ == 0) blocked.first = frame;
    }
    return blocked;
  }

  const RoomScene& scene_;
  RandomSequence& random_;
  int64_t frames_;
  std::array<Knots, 3> axes_;
};

struct LookKnots {
  Knots yaw, pitch, roll;
  double turn = 0;  // what a round adds to yaw
};

LookKnots look_knots(const PathPoints& points, RandomSequence& random) {
  LookKnots look;
  const double full = 2 * std::numbers::pi;
  for (int64_t k = 0; k < kKnots; ++k) {
    Vector3 target = {};
    for (int axis = 0; axis < 3; ++axis) target[axis] = kRoomSize[axis] * random.uniform();
    const Vector3 from = points.point_of(k);
    const double x = target[0] - from[0], y = target[1] - from[1], z = target[2] - from[2];
    look.yaw[k] = std::atan2(y, x);
    look.pitch[k] = std::clamp(std::atan2(z, std::sqrt(x * x + y * y)), -kMostPitch, kMostPitch);
    look.roll[k] = kMostRoll * (2 * random.uniform() - 1);
    if (k > 0) look.yaw[k] -= full * std::round((look.yaw[k] - look.yaw[k - 1]) / full);
  }
  look.turn = full * std::round((look.yaw[kKnots - 1] - look.yaw[0]) / full);
  return look;
}

// Columns: the camera's right, down and forward in the world.
Quaternion look_rotation(double yaw, double pitch, double roll) {
  const double cy = std::cos(yaw), sy = std::sin(yaw), cp = std::cos(pitch), sp = std::sin(pitch);
  const Vector3 forward = {cy * cp, sy * cp, sp}, right = {sy, -cy, 0}, down = {cy * sp, sy * sp, -cp};
  const double c = std::cos(roll), s = std::sin(roll);
  Matrix3 m = {};
  for (int axis = 0; axis < 3; ++axis) {
    m[axis * 3] = c * right[axis] + s * down[axis];
    m[axis * 3 + 1] = c * down[axis] - s * right[axis];
    m[axis * 3 + 2] = forward[axis];
  }
  return quaternion_of(m);
}

}  // namespace

std::vector<Pose> room_path(const RoomScene& scene, uint64_t seed, int64_t path, int64_t frames) {
  if (frames < 1) fail(ExitCode::usage, "room_path", "frames must be at least 1", fmt::to_string(frames));
  RandomSequence random(CounterRandom(seed, CounterRandom(seed, "room path").bits(static_cast<uint64_t>(path))));
  const PathPoints points(scene, random, frames);
  const LookKnots look = look_knots(points, random);
  std::vector<Pose> poses;
  for (int64_t frame = 0; frame < frames; ++frame) {
    const double time = spline_time(frame, frames);
    const double pitch = std::clamp(spline(look.pitch, time), -kMostPitch, kMostPitch);
    const double roll = std::clamp(spline(look.roll, time), -kMostRoll, kMostRoll);
    poses.push_back({points.at(time), look_rotation(spline(look.yaw, time, look.turn), pitch, roll)});
  }
  return poses;
}

void RoomDataOptions::fields(ConfigFields& f) {
  f.field("width", width, "pixels of an image's width", {.minimum = 1, .maximum = 4096});
  f.field("height", height, "pixels of an image's height", {.minimum = 1, .maximum = 4096});
  f.field("train_paths", train_paths, "camera paths to train on", {.minimum = 1, .maximum = 10000});
  f.field("test_paths", test_paths, "other camera paths, to test with", {.minimum = 1, .maximum = 10000});
  f.field("frames", frames, "images of a path", {.minimum = 1, .maximum = 1000000});
  f.field("scene_seed", scene_seed, "seed of the room, its things and its paths", {.minimum = 0});
  f.field("pixel_noise", pixel_noise, "deviation of the noise of each pixel, of 0 .. 1", {.minimum = 0, .maximum = 1});
}

RoomData make_room_data(const RoomDataOptions& options, ProgressLine& progress) {
  const StopSignal signals("stopping");
  const auto seed = static_cast<uint64_t>(options.scene_seed);
  const RoomScene scene(seed);
  const RoomCamera camera = {options.width, options.height};
  const int64_t paths = checked_sum("room", "train_paths + test_paths", options.train_paths, options.test_paths);
  const int64_t count = checked_product("room", "paths x frames", paths, options.frames);
  const ImageShape shape = {options.height, options.width, 3};
  std::vector<uint8_t> pixels(
      static_cast<size_t>(checked_product("room", "bytes of all images", count, shape.bytes())));
  RoomData data;
  for (int64_t path = 0; path < paths; ++path) {
    const std::vector<Pose> poses = room_path(scene, seed, path, options.frames);
    data.poses.insert(data.poses.end(), poses.begin(), poses.end());
    data.path.insert(data.path.end(), poses.size(), path);
    for (int64_t frame = path * options.frames; frame < (path + 1) * options.frames; ++frame) {
      (path < options.train_paths ? data.split.train : data.split.test).push_back(frame);
    }
  }
  std::atomic<int64_t> done = 0;
  parallel_items(count, [&](int64_t i, int64_t thread) {
    StopSignal::check("stopped while the room was rendered");
    const RoomNoise noise = {options.pixel_noise, seed, static_cast<uint64_t>(i)};
    const RoomFrame frame = scene.render(data.poses[i], camera, noise);
    std::copy(frame.image.pixels.begin(), frame.image.pixels.end(), pixels.data() + i * shape.bytes());
    ++done;
    if (thread == 0) progress.show(fmt::format("room: {} of {} images rendered", done.load(), count));
  });
  data.images = ImageSet(shape, std::move(pixels));
  return data;
}

}  // namespace loci
