// Camera paths through a room and the images along them: data for relocalisation whose test paths no training path
// follows.
#pragma once

#include <cstdint>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/progress.h"
#include "loci/data/image/image_set.h"
#include "loci/data/poses/pose_sequence.h"
#include "loci/data/procedural/room_scene.h"

namespace loci {

// A closed Catmull-Rom spline through 8 random points of the room, 0.8 to 2 m high and 0.3 m from everything; between
// them, everything is at least 0.1 m away. The camera looks through 8 random targets, one for each point, with up to 5
// degrees of roll; yaw, pitch and roll follow splines of their own.
std::vector<Pose> room_path(const RoomScene& scene, uint64_t seed, int64_t path, int64_t frames);

struct RoomDataOptions {
  int64_t width = 80;
  int64_t height = 60;
  int64_t train_paths = 8;
  int64_t test_paths = 2;
  int64_t frames = 250;  // of a path
  int64_t scene_seed = 0;
  double pixel_noise = 0.02;  // deviation, of 0 .. 1
  void fields(ConfigFields& f);
};

struct RoomData {
  ImageSet images;
  std::vector<Pose> poses;    // of each image
  std::vector<int64_t> path;  // of each image
  PoseSplit split;
};

// Rendered on several threads; the bytes depend on the options alone.
RoomData make_room_data(const RoomDataOptions& options, ProgressLine& progress);

}  // namespace loci
