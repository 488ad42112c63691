// A room to relocalise a camera in: a box of 6 x 4 x 2.7 m whose surfaces have colours of their own, noise and a grid,
// with 20 to 50 spheres and boxes in it. Everything follows from a seed. Images are traced, one ray a pixel: the
// nearest hit, Lambert's law with one fixed light and ambient light, no shadows.
//
// The world's z is up. A pose turns the camera's coordinates (x right, y down, z forward) into the world's
// (rotation.h).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "loci/data/image/image_file.h"
#include "loci/data/poses/rotation.h"

namespace loci {

constexpr Vector3 kRoomSize = {6, 4, 2.7};

// A pinhole of focal length 0.9 width. Pixel (0, 0) covers u and v from 0 to 1.
struct RoomCamera {
  int64_t width = 80;
  int64_t height = 60;
  double focal() const { return 0.9 * static_cast<double>(width); }
};

struct RoomThing {
  bool sphere = false;
  Vector3 centre = {};
  Vector3 half = {};  // of a box's sides; a sphere has its radius three times
  Vector3 color = {};
};

struct RoomHit {
  double depth = 0;    // along the camera's z
  int64_t object = 0;  // 0 .. 5: surfaces x = 0, x = 6, y = 0, y = 4, floor, ceiling; 6 ...: things
  Vector3 point = {};
  Vector3 color = {};  // lit, 0 .. 1
};

struct RoomFrame {
  Image image;                  // RGB
  std::vector<float> depth;     // [height, width]
  std::vector<int32_t> object;  // [height, width]
};

// Pixel noise of this deviation; the same key gives the same noise.
struct RoomNoise {
  double deviation = 0;
  uint64_t seed = 0;
  uint64_t key = 0;
};

class RoomScene {
 public:
  explicit RoomScene(uint64_t seed);

  const std::vector<RoomThing>& things() const { return things_; }
  // The distance to the nearest surface or thing; negative inside a thing and outside of the room.
  double clearance(const Vector3& point) const;
  // What the ray through image coordinates (u, v) meets first. The camera must be in the room.
  RoomHit trace(const Pose& pose, const RoomCamera& camera, double u, double v) const;
  RoomFrame render(const Pose& pose, const RoomCamera& camera, const RoomNoise& noise = {}) const;

 private:
  struct Surface {
    Vector3 color;
    std::array<std::vector<float>, 2> noise;  // lattices of two octaves
  };
  double surface_shade(const Surface& surface, double s, double t) const;
  Vector3 color_at(const RoomHit& hit, const Vector3& normal) const;

  std::array<Surface, 6> surfaces_;
  std::vector<RoomThing> things_;
};

// Where the world point lies in the image; depth <= 0: behind the camera.
struct RoomProjection {
  double u = 0;
  double v = 0;
  double depth = 0;
};
RoomProjection project(const Pose& pose, const RoomCamera& camera, const Vector3& point);

}  // namespace loci
