// Scaling of images (image_file.h). libjpeg scales by eighths only and libpng not at all; the antialiased interpolation
// of torch is out of reach, because data sets are built and tested without torch.
#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/data/image/image_file.h"

namespace loci {
namespace {

// One output pixel of a side: the weights of input pixels first, first + 1, ...
struct ResizeTaps {
  int64_t first;
  std::vector<float> weight;  // of sum 1
};

// `count` output pixels, pixel i with its centre at begin + (i + 0.5) * step in input pixels.
std::vector<ResizeTaps> resize_taps(int64_t input, int64_t count, double begin, double step) {
  const double reach = std::max(1.0, step);  // half the triangle's base
  std::vector<ResizeTaps> taps;
  for (int64_t i = 0; i < count; ++i) {
    const double centre = begin + (static_cast<double>(i) + 0.5) * step;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(std::floor(centre - reach + 0.5)));
    const auto last = std::min(input - 1, static_cast<int64_t>(std::ceil(centre + reach - 0.5)) - 1);
    std::vector<double> weight;
    double sum = 0;
    for (int64_t j = first; j <= last; ++j) {
      weight.push_back(std::max(0.0, 1 - std::abs(static_cast<double>(j) + 0.5 - centre) / reach));
      sum += weight.back();
    }
    ResizeTaps tap = {first, {}};
    for (const double w : weight) tap.weight.push_back(static_cast<float>(w / sum));
    taps.push_back(std::move(tap));
  }
  return taps;
}

}  // namespace

Image resized(const Image& image, int64_t height, int64_t width) {
  if (height < 1 || width < 1) {
    fail(ExitCode::usage, "resized", "height and width must be at least 1", fmt::format("{} x {}", height, width));
  }
  if (image.shape.height == height && image.shape.width == width) return image;
  const int64_t C = image.shape.channels, W = image.shape.width;
  const double step = std::min(static_cast<double>(image.shape.height) / static_cast<double>(height),
                               static_cast<double>(W) / static_cast<double>(width));
  const auto taps = [step](int64_t input, int64_t count) {
    return resize_taps(input, count, (static_cast<double>(input) - step * static_cast<double>(count)) / 2, step);
  };
  const std::vector<ResizeTaps> down = taps(image.shape.height, height), across = taps(W, width);
  Image result = {{height, width, C}, std::vector<uint8_t>(static_cast<size_t>(height * width * C))};
  std::vector<float> row(static_cast<size_t>(W * C));  // one output row, all input columns
  for (int64_t y = 0; y < height; ++y) {
    std::fill(row.begin(), row.end(), 0.0f);
    for (size_t k = 0; k < down[y].weight.size(); ++k) {
      const uint8_t* in = image.pixels.data() + (down[y].first + static_cast<int64_t>(k)) * W * C;
      for (int64_t i = 0; i < W * C; ++i) row[i] += down[y].weight[k] * static_cast<float>(in[i]);
    }
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t c = 0; c < C; ++c) {
        float sum = 0;
        for (size_t k = 0; k < across[x].weight.size(); ++k) {
          sum += across[x].weight[k] * row[(across[x].first + static_cast<int64_t>(k)) * C + c];
        }
        result.pixels[(y * width + x) * C + c] = static_cast<uint8_t>(std::clamp(sum + 0.5f, 0.0f, 255.0f));
      }
    }
  }
  return result;
}

}  // namespace loci
