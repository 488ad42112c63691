// A picture of the procedural room (loci/data/procedural/room_scene.h): four views along a camera path, as PNG.
//   room_picture OUT.png [SEED]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "loci/base/check.h"
#include "loci/data/image/image_file.h"
#include "loci/data/procedural/room_data.h"

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) return std::fprintf(stderr, "usage: room_picture OUT.png [SEED]\n"), 2;
  const uint64_t seed = argc == 3 ? std::strtoull(argv[2], nullptr, 10) : 0;
  try {
    const loci::RoomScene scene(seed);
    const loci::RoomCamera camera = {132, 99};
    const std::vector<loci::Pose> path = loci::room_path(scene, seed, /*path=*/0, /*frames=*/250);
    loci::Image picture = {{2 * camera.height, 2 * camera.width, 3}, {}};
    picture.pixels.resize(static_cast<size_t>(picture.shape.bytes()));
    for (int64_t view = 0; view < 4; ++view) {
      const loci::RoomFrame frame = scene.render(path[view * 62], camera);
      for (int64_t y = 0; y < camera.height; ++y) {
        const int64_t to = ((view / 2 * camera.height + y) * 2 + view % 2) * camera.width * 3;
        std::copy_n(frame.image.pixels.begin() + y * camera.width * 3, camera.width * 3, picture.pixels.begin() + to);
      }
    }
    loci::write_png(argv[1], picture);
  } catch (const loci::Error& error) {
    std::fprintf(stderr, "room_picture: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
