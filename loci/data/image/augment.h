// Images of a set as float input, [height, width, channels]: normalised by channel, and for training shifted and
// mirrored at random.
#pragma once

#include <cstdint>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/data/image/image_set.h"

namespace loci {

// output = (value / 255 - mean) / deviation
struct ChannelScale {
  std::vector<double> mean;       // [channels], of 0 .. 1
  std::vector<double> deviation;  // [channels], above 0
};

// Of all images, or of a random sample of 100,000 where there are more. A channel of one value has deviation 1.
// Throws Error (input) when the set is empty or a file is damaged.
ChannelScale channel_scale(const ImageSet& images);

struct AugmentOptions {
  int64_t crop_padding = 4;  // largest shift in pixels; pixels from outside the image become 0, the mean
  bool mirror = true;        // half of the images, left to right
  void fields(ConfigFields& f);
};

// Writes one image. `draw` numbers the uses of images in a run; shift, cut and mirror are a pure function of seed and
// draw. All images of one draw, such as the frames of a clip, are shifted, cut and mirrored alike.
class Augment {
 public:
  // output: the shape of what is written, no larger than the image: cut around its centre, or anywhere at random.
  Augment(const ImageShape& shape, const ChannelScale& scale, const AugmentOptions& options, uint64_t seed,
          const ImageShape& output);
  Augment(const ImageShape& shape, const ChannelScale& scale, const AugmentOptions& options, uint64_t seed)
      : Augment(shape, scale, options, seed, shape) {}

  void plain(const uint8_t* pixels, float* output) const;
  void random(const uint8_t* pixels, uint64_t draw, float* output) const;
  const ImageShape& output() const { return output_; }

 private:
  void write(const uint8_t* pixels, int64_t down, int64_t right, bool mirrored, float* output) const;

  ImageShape shape_, output_;
  std::vector<float> value_;  // [channels, 256]: what a byte becomes
  AugmentOptions options_;
  uint64_t seed_;
};

}  // namespace loci
