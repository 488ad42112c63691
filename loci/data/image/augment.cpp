#include "loci/data/image/augment.h"

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/data/parallel_items.h"

namespace loci {
namespace {

constexpr int64_t kMostImagesOfScale = 100000;

// Of bytes and of their squares. Exact in 64 bits, so that the result does not depend on the threads.
struct ChannelSums {
  std::vector<uint64_t> sum, squares;  // [channels]
};

}  // namespace

ChannelScale channel_scale(const ImageSet& images) {
  if (images.size() < 1) fail(ExitCode::input, "channel_scale", "there must be an image", "none");
  const int64_t channels = images.shape().channels, sample = std::min(images.size(), kMostImagesOfScale);
  const std::vector<uint64_t> zeros(static_cast<size_t>(channels));
  std::vector<ChannelSums> of_thread(static_cast<size_t>(item_threads(sample)), {zeros, zeros});
  const CounterPermutation drawn(static_cast<uint64_t>(images.size()), 0, stream_of("channel scale"));
  parallel_items(sample, [&](int64_t i, int64_t thread) {
    std::vector<uint8_t> pixels(static_cast<size_t>(images.shape().bytes()));
    images.read(sample == images.size() ? i : static_cast<int64_t>(drawn(static_cast<uint64_t>(i))), pixels.data());
    for (int64_t c = 0; c < channels; ++c) {
      uint64_t sum = 0, squares = 0;
      for (size_t at = c; at < pixels.size(); at += channels) {
        sum += pixels[at];
        squares += uint64_t{pixels[at]} * pixels[at];
      }
      of_thread[thread].sum[c] += sum;
      of_thread[thread].squares[c] += squares;
    }
  });
  const double count = static_cast<double>(sample * images.shape().bytes() / channels);
  ChannelScale scale;
  for (int64_t c = 0; c < channels; ++c) {
    uint64_t sum = 0, squares = 0;
    for (const ChannelSums& sums : of_thread) {
      sum += sums.sum[c];
      squares += sums.squares[c];
    }
    const double mean = static_cast<double>(sum) / count / 255;
    const double variance = static_cast<double>(squares) / count / (255 * 255) - mean * mean;
    scale.mean.push_back(mean);
    scale.deviation.push_back(variance > 1e-12 ? std::sqrt(variance) : 1);
  }
  return scale;
}

void AugmentOptions::fields(ConfigFields& f) {
  f.field("crop_padding", crop_padding, "training images are shifted at random by up to so many pixels",
          {.minimum = 0, .maximum = 1 << 15});
  f.field("mirror", mirror, "half of the training images are mirrored, left to right");
}

Augment::Augment(const ImageShape& shape, const ChannelScale& scale, const AugmentOptions& options, uint64_t seed,
                 const ImageShape& output)
    : shape_(shape), output_(output), options_(options), seed_(seed) {
  if (output.height < 1 || output.height > shape.height || output.width < 1 || output.width > shape.width) {
    fail(ExitCode::usage, "Augment", fmt::format("the cut must be within {} x {}", shape.height, shape.width),
         fmt::format("{} x {}", output.height, output.width));
  }
  if (std::ssize(scale.mean) != shape.channels || std::ssize(scale.deviation) != shape.channels) {
    fail(ExitCode::usage, "Augment", fmt::format("mean and deviation must have {} channels", shape.channels),
         fmt::format("{} and {}", scale.mean.size(), scale.deviation.size()));
  }
  for (int64_t c = 0; c < shape.channels; ++c) {
    if (!std::isfinite(scale.mean[c]) || !(scale.deviation[c] > 0) || !std::isfinite(scale.deviation[c])) {
      fail(ExitCode::usage, "Augment", "mean must be finite and deviation above 0",
           fmt::format("{} and {}", scale.mean[c], scale.deviation[c]));
    }
    for (int value = 0; value < 256; ++value) {
      value_.push_back(static_cast<float>((value / 255.0 - scale.mean[c]) / scale.deviation[c]));
    }
  }
}

void Augment::plain(const uint8_t* pixels, float* output) const {
  write(pixels, (shape_.height - output_.height) / 2, (shape_.width - output_.width) / 2, false, output);
}

void Augment::random(const uint8_t* pixels, uint64_t draw, float* output) const {
  const auto shift = [&](const char* stream, int64_t room) {
    const auto shifts = static_cast<uint64_t>(2 * options_.crop_padding + room + 1);
    return static_cast<int64_t>(CounterRandom(seed_, stream).below(draw, shifts)) - options_.crop_padding;
  };
  const bool mirrored = options_.mirror && CounterRandom(seed_, "image mirror").below(draw, 2) == 1;
  write(pixels, shift("image shift down", shape_.height - output_.height),
        shift("image shift right", shape_.width - output_.width), mirrored, output);
}

// Output pixel (y, x) is input pixel (y + down, x + right); the input is mirrored first where `mirrored`.
void Augment::write(const uint8_t* pixels, int64_t down, int64_t right, bool mirrored, float* output) const {
  const int64_t H = shape_.height, W = shape_.width, C = shape_.channels;
  for (int64_t y = 0; y < output_.height; ++y) {
    for (int64_t x = 0; x < output_.width; ++x, output += C) {
      const int64_t from_y = y + down, from_x = mirrored ? W - 1 - x - right : x + right;
      if (from_y < 0 || from_y >= H || from_x < 0 || from_x >= W) {
        std::fill_n(output, C, 0.0f);
        continue;
      }
      const uint8_t* pixel = pixels + (from_y * W + from_x) * C;
      for (int64_t c = 0; c < C; ++c) output[c] = value_[c * 256 + pixel[c]];
    }
  }
}

}  // namespace loci
