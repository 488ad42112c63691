// Batches of images as float input [B, height, width, channels] (channels last) and labels [B].
#pragma once

#include <cstdint>
#include <vector>

#include "loci/data/epoch_order.h"
#include "loci/data/image/augment.h"
#include "loci/data/image/image_folder.h"

namespace loci {

// Training: a batch is a pure function of (seed, step, micro), and any thread may make it. An epoch visits each image
// once, shifted and mirrored anew.
class ImageSampler {
 public:
  // A step takes `micro_batches` batches, with micro = 0 .. micro_batches-1. `data` must live as long as the sampler.
  // Throws Error (usage) for sizes below 1, and (input) when there is no image.
  ImageSampler(const LabelledImages& data, const ChannelScale& scale, const AugmentOptions& options, int64_t batch,
               uint64_t seed, int64_t micro_batches = 1);

  void fill(int64_t step, int64_t micro, float* input, int64_t* label) const;
  // The numbers of the same images, for targets other than labels.
  std::vector<int64_t> items(int64_t step, int64_t micro) const;

 private:
  int64_t position(int64_t step, int64_t micro) const;

  const LabelledImages& data_;
  Augment augment_;
  int64_t batch_;
  int64_t micro_batches_;
  EpochOrder order_;
};

// Evaluation: each image once, in order, as it is.
class ImageSequence {
 public:
  ImageSequence(const LabelledImages& data, const ChannelScale& scale, int64_t batch);

  int64_t batches() const { return (data_.images.size() + batch_ - 1) / batch_; }
  // Returns how many images there are in the batch; the last one may have fewer than `batch`.
  int64_t fill(int64_t index, float* input, int64_t* label) const;

 private:
  const LabelledImages& data_;
  Augment augment_;
  int64_t batch_;
};

}  // namespace loci
