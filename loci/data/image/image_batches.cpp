#include "loci/data/image/image_batches.h"

#include <algorithm>

#include "loci/base/check.h"

namespace loci {
namespace {

const LabelledImages& checked_images(const LabelledImages& data, int64_t batch) {
  if (batch < 1) fail(ExitCode::usage, "image_batches", "batch must be at least 1", fmt::to_string(batch));
  if (data.images.size() < 1) fail(ExitCode::input, "image_batches", "there must be an image", "none");
  if (std::ssize(data.labels) != data.images.size()) {
    fail(ExitCode::bug, "image_batches", fmt::format("there must be {} labels", data.images.size()),
         fmt::to_string(data.labels.size()));
  }
  return data;
}

}  // namespace

ImageSampler::ImageSampler(const LabelledImages& data, const ChannelScale& scale, const AugmentOptions& options,
                           int64_t batch, uint64_t seed, int64_t micro_batches)
    : data_(checked_images(data, batch)),
      augment_(data.images.shape(), scale, options, seed),
      batch_(batch),
      micro_batches_(micro_batches),
      order_(data.images.size(), seed) {
  if (micro_batches < 1) {
    fail(ExitCode::usage, "image_batches", "micro_batches must be at least 1", fmt::to_string(micro_batches));
  }
}

int64_t ImageSampler::position(int64_t step, int64_t micro) const {
  if (step < 0 || micro < 0 || micro >= micro_batches_) {
    fail(ExitCode::bug, "image_batches",
         fmt::format("step must be at least 0 and micro in 0 .. {}", micro_batches_ - 1),
         fmt::format("{} and {}", step, micro));
  }
  return (step * micro_batches_ + micro) * batch_;
}

void ImageSampler::fill(int64_t step, int64_t micro, float* input, int64_t* label) const {
  const int64_t begin = position(step, micro), bytes = data_.images.shape().bytes();
  std::vector<uint8_t> pixels(static_cast<size_t>(bytes));
  for (int64_t b = 0; b < batch_; ++b) {
    const EpochOrder::Visit visit = order_.at(begin + b);
    data_.images.read(visit.item, pixels.data());
    // By epoch and item, so that the augmentation does not depend on the size of batches.
    const uint64_t draw =
        static_cast<uint64_t>(visit.epoch) * static_cast<uint64_t>(order_.items()) + static_cast<uint64_t>(visit.item);
    augment_.random(pixels.data(), draw, input + b * bytes);
    label[b] = data_.labels[visit.item];
  }
}

ImageSequence::ImageSequence(const LabelledImages& data, const ChannelScale& scale, int64_t batch)
    : data_(checked_images(data, batch)), augment_(data.images.shape(), scale, {}, 0), batch_(batch) {}

int64_t ImageSequence::fill(int64_t index, float* input, int64_t* label) const {
  if (index < 0 || index >= batches()) {
    fail(ExitCode::bug, "image_batches", fmt::format("index must be in 0 .. {}", batches() - 1), fmt::to_string(index));
  }
  const int64_t begin = index * batch_, count = std::min(batch_, data_.images.size() - begin);
  std::vector<uint8_t> pixels(static_cast<size_t>(data_.images.shape().bytes()));
  for (int64_t b = 0; b < count; ++b) {
    data_.images.read(begin + b, pixels.data());
    augment_.plain(pixels.data(), input + b * data_.images.shape().bytes());
    label[b] = data_.labels[begin + b];
  }
  return count;
}

}  // namespace loci
