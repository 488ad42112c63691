// A folder of small images of two or three classes that a small network learns to tell apart.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>

#include "loci/base/random.h"
#include "loci/data/image/image_file.h"

namespace loci {

// Grey noise of 8 x 8 whose left (class-0), right (class-1) or upper half (class-2) is brighter: 30 images of each
// class in train/, 20 in test/.
inline void write_bright_sides(const std::filesystem::path& folder, int64_t classes = 2) {
  constexpr int64_t edge = 8;
  for (int64_t label = 0; label < classes; ++label) {
    const CounterRandom random(static_cast<uint64_t>(label), "sides");
    for (int64_t i = 0; i < 50; ++i) {
      Image image{{edge, edge, 1}, {}};
      for (int64_t p = 0; p < edge * edge; ++p) {
        const bool bright = label == 2 ? p / edge < edge / 2 : (p % edge < edge / 2) == (label == 0);
        const double noise = random.uniform(static_cast<uint64_t>(i * edge * edge + p));
        image.pixels.push_back(static_cast<uint8_t>(150 * noise + (bright ? 80 : 0)));
      }
      const auto place = folder / (i < 30 ? "train" : "test") / fmt::format("class-{}", label);
      std::filesystem::create_directories(place);
      write_png(place / fmt::format("{}.png", i), image);
    }
  }
}

}  // namespace loci
