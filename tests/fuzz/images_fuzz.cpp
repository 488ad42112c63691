// Fuzz target: any bytes are either refused as input or a whole image, a list of poses, an idx file or an orientation.
// The decoders are the libraries'; what is ours is what leads to them and what becomes of their output.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <string_view>

#include "loci/base/check.h"
#include "loci/data/image/idx_file.h"
#include "loci/data/image/image_codec.h"
#include "loci/data/image/image_file.h"
#include "loci/data/poses/pose_sequence.h"

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "images: %s\n", what);
  std::abort();
}

void or_refused(const std::function<void()>& action) {
  try {
    action();
  } catch (const loci::Error& error) {
    require(error.code() == loci::ExitCode::input, error.what());
    require(std::string_view(error.what()).find('\n') == std::string_view::npos, "one line");
  }
}

void read_as_image(std::span<const std::byte> file) {
  for (const loci::ImageColor color : {loci::ImageColor::rgb, loci::ImageColor::grey}) {
    or_refused([&] {
      const loci::ImageReadOptions options = {color, 1 << 16};
      const loci::Image image = loci::decode_image(file, "fuzz", options);
      require(image.shape == loci::image_shape(file, "fuzz", options), "the shape of the header");
      require(std::ssize(image.pixels) == image.shape.bytes(), "whole pixels");
      require(image.shape.height * image.shape.width <= options.maximum_pixels, "the limit of pixels");
    });
  }
}

void read_as_poses(std::string_view text) {
  or_refused([&] {
    for (const loci::Pose& pose : loci::parse_poses(text, "fuzz")) {
      const auto [w, x, y, z] = pose.rotation;
      require(w >= 0 && std::abs(w * w + x * x + y * y + z * z - 1) < 1e-9, "a canonical rotation");
      for (const double number : pose.position) require(std::isfinite(number), "a finite position");
    }
  });
}

void read_as_idx(std::span<const std::byte> file) {
  const int descriptor = memfd_create("fuzz", 0);
  require(write(descriptor, file.data(), file.size()) == static_cast<ssize_t>(file.size()), "a file in memory");
  or_refused([&] {
    const loci::IdxFile idx = loci::read_idx("/proc/self/fd/" + std::to_string(descriptor));
    const int64_t count = std::accumulate(idx.sides.begin(), idx.sides.end(), int64_t{1}, std::multiplies<>());
    require(count == std::ssize(idx.values), "the sides' values");
  });
  close(descriptor);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  read_as_image(file);
  read_as_poses({reinterpret_cast<const char*>(data), size});
  read_as_idx(file);
  const int orientation = loci::exif_orientation({data, size});
  require(orientation >= 1 && orientation <= 8, "an orientation");
  return 0;
}
