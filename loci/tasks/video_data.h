// What the task of videos reads: folders of frames, the network's input, batches.
//
// Legend: B clips of a batch, C channels, T frames of a window, N windows of a test clip.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/data/video/clip_batches.h"
#include "loci/data/video/clip_folder.h"
#include "loci/tasks/image_data.h"
#include "loci/train/read_ahead.h"
#include "loci/train/task.h"

namespace loci {

// [data]
struct VideoTaskData {
  ImageOptions image;
  ClipWindows windows;
  std::vector<int64_t> crop;  // {height, width} that are cut from frames; empty: whole frames
  AugmentOptions augment = {.crop_padding = 0};
  void fields(ConfigFields& f);

  // Throws Error (usage) for options that do not fit each other.
  void check() const;
  int64_t channels() const { return image.color == ImageColor::grey ? 1 : 3; }
  // What the network gets of frames of this shape. Throws Error (usage) where a crop is larger.
  ImageShape output(const ImageShape& frame) const;
  // Of frames as data.size says, without it of 64 x 64: what sizes are estimated with.
  ImageShape assumed_output() const;
  // Those that decide what is read, as text.
  std::string settings() const;
};

struct OpenedClips : OpenedData {
  ClipClasses data;
  ImageInput input;  // frames before they are cut

  nlohmann::json facts() const;
};

std::shared_ptr<const OpenedClips> open_clips(const VideoTaskData& options, const TaskInputs& inputs);

struct ClipBatch {
  at::Tensor clips;   // [B, C, T, height, width], channels last
  at::Tensor labels;  // [B] int64
};

// How many clips a batch of an evaluation has: 32 windows, or those of one clip.
int64_t test_clips_at_once(const ClipWindows& windows);
// Clips in order, as an evaluation sees them; `data` must live as long as the sequence.
ClipSequence test_sequence(const LabelledClips& data, const ImageInput& input, const VideoTaskData& options);
// clips [B N, ...], a clip's windows one after another. output: the shape that frames are cut to.
ClipBatch test_batch(const ClipSequence& sequence, int64_t index, const VideoTaskData& options,
                     const ImageShape& output);

// Training batches are made one ahead by a thread, test batches when they are asked for.
class ClipFeed {
 public:
  ClipFeed(std::shared_ptr<const OpenedClips> opened, const ImageInput& input, const VideoTaskData& options,
           const BatchShape& batch, uint64_t seed);

  ClipBatch training(int64_t step, int64_t micro) { return ahead_.take(step * batch_.accumulation + micro); }
  int64_t test_batches() const { return test_.batches(); }
  ClipBatch test(int64_t index) const { return test_batch(test_, index, options_, output_); }

 private:
  ClipBatch training_at(int64_t position) const;  // position = step * accumulation + micro

  std::shared_ptr<const OpenedClips> opened_;  // sampler and sequence refer to it
  VideoTaskData options_;
  ImageShape output_;
  BatchShape batch_;
  ClipSampler sampler_;
  ClipSequence test_;
  ReadAhead<ClipBatch> ahead_;
};

// Of logits [B N, classes]: the mean of the windows' probabilities, [B, classes].
at::Tensor clip_probabilities(const at::Tensor& logits, int64_t windows);

}  // namespace loci
