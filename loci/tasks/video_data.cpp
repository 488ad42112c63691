// Legend: B clips of a batch, C channels, T frames of a window, N windows of a test clip.
#include "loci/tasks/video_data.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/config.h"

namespace loci {
namespace {

constexpr int64_t kAssumedSide = 64;
constexpr int64_t kTestWindows = 32;  // at once

Augment augment_of(const ImageInput& input, const VideoTaskData& options, uint64_t seed) {
  return Augment(input.shape, input.scale, options.augment, seed, options.output(input.shape));
}

ClipBatch empty_batch(int64_t windows, int64_t clips, int64_t frames, const ImageShape& output) {
  const at::Tensor pixels = at::empty({windows, frames, output.height, output.width, output.channels}, at::kFloat);
  return {pixels.permute({0, 4, 1, 2, 3}), at::empty({clips}, at::kLong)};
}

}  // namespace

void VideoTaskData::fields(ConfigFields& f) {
  image.fields(f);
  windows.fields(f);
  f.field("crop", crop,
          "[height, width] cut from frames, at random in training, else around the centre; empty: nothing",
          {.minimum = 1, .maximum = 1 << 15});
  f.field("crop_padding", augment.crop_padding,
          "a training clip is shifted at random, all frames alike, by up to so many pixels in addition",
          {.minimum = 0, .maximum = 1 << 15});
  f.field("mirror", augment.mirror, "half of the training clips are mirrored, left to right");
}

void VideoTaskData::check() const {
  check_image_size(image);
  if (!crop.empty() && crop.size() != 2) {
    fail(ExitCode::usage, "data.crop", "it must be empty or [height, width]", fmt::format("{} numbers", crop.size()));
  }
  if (!image.size.empty()) assumed_output();
}

ImageShape VideoTaskData::output(const ImageShape& frame) const {
  if (crop.empty()) return frame;
  if (crop[0] > frame.height || crop[1] > frame.width) {
    fail(ExitCode::usage, "data.crop",
         fmt::format("it must be within the frames' {} x {} (data.size scales them)", frame.height, frame.width),
         fmt::format("{} x {}", crop[0], crop[1]));
  }
  return {crop[0], crop[1], frame.channels};
}

ImageShape VideoTaskData::assumed_output() const {
  if (!image.size.empty()) return output({image.size[0], image.size[1], channels()});
  if (!crop.empty()) return {crop[0], crop[1], channels()};
  return {kAssumedSide, kAssumedSide, channels()};
}

std::string VideoTaskData::settings() const {
  return Config::write(without_limits(image));
}

nlohmann::json OpenedClips::facts() const {
  return {{"training clips", data.train.clips.size()},
          {"test clips", data.test.clips.size()},
          {"training frames", data.train.frames.size()},
          {"classes", input.classes.size()},
          {"height", input.shape.height},
          {"width", input.shape.width},
          {"channels", input.shape.channels}};
}

std::shared_ptr<const OpenedClips> open_clips(const VideoTaskData& options, const TaskInputs& inputs) {
  if (auto opened = std::dynamic_pointer_cast<const OpenedClips>(inputs.opened)) return opened;
  auto opened = std::make_shared<OpenedClips>();
  opened->data = load_clip_folder(inputs.data, options.image, *inputs.progress);
  ClipClasses& data = opened->data;
  int64_t shorter = 0;
  for (const LabelledClips* part : {&data.train, &data.test}) {
    shorter += std::ranges::count_if(part->clips, [&](const Clip& c) { return c.frames < options.windows.span(); });
  }
  if (shorter > 0) {
    data.notices.push_back(fmt::format("{} of {} clips have fewer than {} frames: their last one is repeated", shorter,
                                       data.train.clips.size() + data.test.clips.size(), options.windows.span()));
  }
  for (const std::string& notice : data.notices) inputs.progress->finish(notice);
  for (const std::string& name : data.classes) opened->input.classes.push_back(printable(name));
  opened->input.shape = data.train.frames.shape();
  opened->input.scale = channel_scale(data.train.frames);
  return opened;
}

int64_t test_clips_at_once(const ClipWindows& windows) {
  return std::max<int64_t>(1, kTestWindows / windows.eval_clips);
}

ClipSequence test_sequence(const LabelledClips& data, const ImageInput& input, const VideoTaskData& options) {
  return ClipSequence(data, options.windows, augment_of(input, options, 0), test_clips_at_once(options.windows));
}

ClipBatch test_batch(const ClipSequence& sequence, int64_t index, const VideoTaskData& options,
                     const ImageShape& output) {
  const int64_t most = test_clips_at_once(options.windows), windows = options.windows.eval_clips;
  const ClipBatch batch = empty_batch(most * windows, most, options.windows.frames, output);
  const int64_t count =
      sequence.fill(index, batch.clips.mutable_data_ptr<float>(), batch.labels.mutable_data_ptr<int64_t>());
  return {batch.clips.narrow(0, 0, count * windows), batch.labels.narrow(0, 0, count)};
}

ClipFeed::ClipFeed(std::shared_ptr<const OpenedClips> opened, const ImageInput& input, const VideoTaskData& options,
                   const BatchShape& batch, uint64_t seed)
    : opened_(std::move(opened)),
      options_(options),
      output_(options.output(input.shape)),
      batch_(batch),
      sampler_(opened_->data.train, options.windows, augment_of(input, options, seed), batch.per_micro_batch(), seed),
      test_(test_sequence(opened_->data.test, input, options)),
      ahead_([this](int64_t position) { return training_at(position); }) {}

ClipBatch ClipFeed::training_at(int64_t position) const {
  const int64_t clips = batch_.per_micro_batch();
  ClipBatch batch = empty_batch(clips, clips, options_.windows.frames, output_);
  sampler_.fill(position, batch.clips.mutable_data_ptr<float>(), batch.labels.mutable_data_ptr<int64_t>());
  return batch;
}

at::Tensor clip_probabilities(const at::Tensor& logits, int64_t windows) {
  return at::softmax(logits, 1).view({-1, windows, logits.size(1)}).mean(1);
}

}  // namespace loci
