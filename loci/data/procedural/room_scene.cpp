#include "loci/data/procedural/room_scene.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "loci/base/check.h"
#include "loci/base/random_sequence.h"

namespace loci {
namespace {

constexpr uint64_t kFewestThings = 20, kMostThings = 50;
constexpr double kSmallestHalf = 0.1, kLargestHalf = 0.35;   // of things, metres
constexpr std::array<double, 2> kNoiseCell = {0.5, 0.2};     // metres
constexpr std::array<double, 2> kNoiseShare = {0.65, 0.35};  // of the octaves
constexpr int64_t kLatticeSide = 32;                         // cells of the longest side and one
constexpr double kGridCell = 0.5, kGridHalfWidth = 0.025;    // metres
constexpr Vector3 kLight = {3.5, 1.6, 2.5};
constexpr double kAmbient = 0.4;
constexpr double kNearest = 1e-9;  // a hit nearer than this is the camera itself

Vector3 operator+(const Vector3& a, const Vector3& b) {
  return {a[0] + b[0], a[1] + b[1], a[2] + b[2]};
}
Vector3 operator-(const Vector3& a, const Vector3& b) {
  return {a[0] - b[0], a[1] - b[1], a[2] - b[2]};
}
Vector3 operator*(const Vector3& a, double b) {
  return {a[0] * b, a[1] * b, a[2] * b};
}
double dot(const Vector3& a, const Vector3& b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

Vector3 color_of_hue(double hue, double saturation, double value) {
  Vector3 color = {};
  for (int c = 0; c < 3; ++c) {
    const double k = std::fmod(5 - 2 * c + hue * 6, 6);
    color[c] = value * (1 - saturation * std::clamp(std::min(k, 4 - k), 0.0, 1.0));
  }
  return color;
}

double fade(double t) {
  return t * t * (3 - 2 * t);
}

// Value noise: random numbers on a lattice, between them smooth.
double lattice_noise(const std::vector<float>& lattice, double s, double t) {
  const double fs = std::floor(s), ft = std::floor(t);
  const auto at = [&](int64_t i, int64_t j) {
    const int64_t row = std::clamp<int64_t>(static_cast<int64_t>(ft) + j, 0, kLatticeSide - 1);
    return double{lattice[row * kLatticeSide + std::clamp<int64_t>(static_cast<int64_t>(fs) + i, 0, kLatticeSide - 1)]};
  };
  const double x = fade(s - fs), y = fade(t - ft);
  return (at(0, 0) * (1 - x) + at(1, 0) * x) * (1 - y) + (at(0, 1) * (1 - x) + at(1, 1) * x) * y;
}

bool on_grid(double s) {
  return std::abs(s / kGridCell - std::round(s / kGridCell)) * kGridCell < kGridHalfWidth;
}

// A ray and the nearest of what it met.
struct Ray {
  Vector3 origin, direction;
  double depth = std::numeric_limits<double>::infinity();
  int64_t object = 0;
  Vector3 normal = {};

  void meet(double at, int64_t what, const Vector3& its_normal) {
    depth = at;
    object = what;
    normal = its_normal;
  }

  void meet_walls() {
    for (int axis = 0; axis < 3; ++axis) {
      if (direction[axis] == 0) continue;
      const bool far = direction[axis] > 0;
      const double at = ((far ? kRoomSize[axis] : 0) - origin[axis]) / direction[axis];
      if (at >= depth) continue;
      Vector3 inward = {};
      inward[axis] = far ? -1 : 1;
      meet(at, 2 * axis + (far ? 1 : 0), inward);
    }
  }

  void meet_sphere(const RoomThing& thing, int64_t what) {
    const Vector3 from = origin - thing.centre;
    const double a = dot(direction, direction), b = dot(from, direction);
    const double root = b * b - a * (dot(from, from) - thing.half[0] * thing.half[0]);
    if (root < 0) return;
    const double at = (-b - std::sqrt(root)) / a;
    if (at <= kNearest || at >= depth) return;
    meet(at, what, (from + direction * at) * (1 / thing.half[0]));
  }

  void meet_box(const RoomThing& thing, int64_t what) {
    double enter = -std::numeric_limits<double>::infinity(), leave = -enter;
    Vector3 outward = {};
    for (int axis = 0; axis < 3; ++axis) {
      const double from = origin[axis] - thing.centre[axis];
      if (direction[axis] == 0) {
        if (std::abs(from) > thing.half[axis]) return;
        continue;
      }
      const double side = direction[axis] > 0 ? -thing.half[axis] : thing.half[axis];
      const double at = (side - from) / direction[axis];
      if (at > enter) {
        enter = at;
        outward = {};
        outward[axis] = direction[axis] > 0 ? -1 : 1;
      }
      leave = std::min(leave, (-side - from) / direction[axis]);
    }
    if (enter <= kNearest || enter > leave || enter >= depth) return;
    meet(enter, what, outward);
  }
};

Vector3 turned(const Matrix3& m, const Vector3& v) {
  return {m[0] * v[0] + m[1] * v[1] + m[2] * v[2], m[3] * v[0] + m[4] * v[1] + m[5] * v[2],
          m[6] * v[0] + m[7] * v[1] + m[8] * v[2]};
}

}  // namespace

RoomScene::RoomScene(uint64_t seed) {
  RandomSequence random(CounterRandom(seed, "room scene"));
  for (size_t i = 0; i < surfaces_.size(); ++i) {
    const double hue = (static_cast<double>(i) + 0.6 * random.uniform()) / 6;
    surfaces_[i].color = color_of_hue(hue, 0.55, 0.95);
    for (std::vector<float>& lattice : surfaces_[i].noise) {
      for (int64_t k = 0; k < kLatticeSide * kLatticeSide; ++k) lattice.push_back(static_cast<float>(random.uniform()));
    }
  }
  const auto between = [&random](double low, double high) { return low + (high - low) * random.uniform(); };
  things_.resize(random.between(kFewestThings, kMostThings));
  for (RoomThing& thing : things_) {
    thing.sphere = random.below(2) == 0;
    const double radius = between(kSmallestHalf, kLargestHalf);
    for (int axis = 0; axis < 3; ++axis) {
      thing.half[axis] = thing.sphere ? radius : between(kSmallestHalf, kLargestHalf);
      thing.centre[axis] = between(thing.half[axis], kRoomSize[axis] - thing.half[axis]);
    }
    thing.color = color_of_hue(random.uniform(), 0.75, 1);
  }
}

double RoomScene::clearance(const Vector3& point) const {
  double nearest = std::numeric_limits<double>::infinity();
  for (int axis = 0; axis < 3; ++axis) nearest = std::min({nearest, point[axis], kRoomSize[axis] - point[axis]});
  for (const RoomThing& thing : things_) {
    if (thing.sphere) {
      nearest = std::min(nearest, distance_between(point, thing.centre) - thing.half[0]);
      continue;
    }
    Vector3 outside = {};
    double inside = -std::numeric_limits<double>::infinity();
    for (int axis = 0; axis < 3; ++axis) {
      const double beyond = std::abs(point[axis] - thing.centre[axis]) - thing.half[axis];
      outside[axis] = std::max(beyond, 0.0);
      inside = std::max(inside, beyond);
    }
    nearest = std::min(nearest, inside > 0 ? std::sqrt(dot(outside, outside)) : inside);
  }
  return nearest;
}

double RoomScene::surface_shade(const Surface& surface, double s, double t) const {
  double noise = 0;
  for (size_t octave = 0; octave < 2; ++octave) {
    noise += kNoiseShare[octave] * lattice_noise(surface.noise[octave], s / kNoiseCell[octave], t / kNoiseCell[octave]);
  }
  return (0.45 + 0.55 * noise) * (on_grid(s) || on_grid(t) ? 0.45 : 1);
}

Vector3 RoomScene::color_at(const RoomHit& hit, const Vector3& normal) const {
  const Vector3 to_light = kLight - hit.point;
  const double distance = std::sqrt(dot(to_light, to_light));
  const double lambert = distance > 0 ? std::max(0.0, dot(normal, to_light) / distance) : 1;
  double light = kAmbient + (1 - kAmbient) * lambert;
  if (hit.object >= 6) return things_[hit.object - 6].color * light;
  const int axis = static_cast<int>(hit.object / 2);
  light *= surface_shade(surfaces_[hit.object], hit.point[axis == 0 ? 1 : 0], hit.point[axis == 2 ? 1 : 2]);
  return surfaces_[hit.object].color * light;
}

RoomHit RoomScene::trace(const Pose& pose, const RoomCamera& camera, double u, double v) const {
  const Vector3 in_camera = {(u - 0.5 * static_cast<double>(camera.width)) / camera.focal(),
                             (v - 0.5 * static_cast<double>(camera.height)) / camera.focal(), 1};
  Ray ray = {pose.position, turned(matrix_of(pose.rotation), in_camera)};
  ray.meet_walls();
  for (size_t i = 0; i < things_.size(); ++i) {
    const auto object = static_cast<int64_t>(i) + 6;
    if (things_[i].sphere) {
      ray.meet_sphere(things_[i], object);
    } else {
      ray.meet_box(things_[i], object);
    }
  }
  RoomHit hit = {ray.depth, ray.object, ray.origin + ray.direction * ray.depth, {}};
  hit.color = color_at(hit, ray.normal);
  return hit;
}

RoomFrame RoomScene::render(const Pose& pose, const RoomCamera& camera, const RoomNoise& noise) const {
  if (!(clearance(pose.position) > 0)) {
    fail(ExitCode::usage, "RoomScene", "the camera must be in the room and outside of things",
         fmt::format("{:.2f} {:.2f} {:.2f}", pose.position[0], pose.position[1], pose.position[2]));
  }
  const CounterRandom random(noise.seed, CounterRandom(noise.seed, "room pixel noise").bits(noise.key));
  RoomFrame frame;
  frame.image.shape = {camera.height, camera.width, 3};
  for (int64_t y = 0; y < camera.height; ++y) {
    for (int64_t x = 0; x < camera.width; ++x) {
      const RoomHit hit = trace(pose, camera, static_cast<double>(x) + 0.5, static_cast<double>(y) + 0.5);
      frame.depth.push_back(static_cast<float>(hit.depth));
      frame.object.push_back(static_cast<int32_t>(hit.object));
      for (const double channel : hit.color) {
        double value = channel;
        if (noise.deviation > 0) value += noise.deviation * random.normal(frame.image.pixels.size());
        frame.image.pixels.push_back(static_cast<uint8_t>(std::lround(255 * std::clamp(value, 0.0, 1.0))));
      }
    }
  }
  return frame;
}

RoomProjection project(const Pose& pose, const RoomCamera& camera, const Vector3& point) {
  const Matrix3 m = matrix_of(pose.rotation);
  const Matrix3 inverse = {m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]};
  const Vector3 local = turned(inverse, point - pose.position);
  return {0.5 * static_cast<double>(camera.width) + camera.focal() * local[0] / local[2],
          0.5 * static_cast<double>(camera.height) + camera.focal() * local[1] / local[2], local[2]};
}

}  // namespace loci
