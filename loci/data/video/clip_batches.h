// Batches of clips as float input [B, T, height, width, channels] and labels [B].
//
// Legend: B clips of a batch, T `frames`, N `eval_clips`, L frames of a clip, W = (T - 1) frame_step + 1 of a window.
#pragma once

#include <cstdint>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/data/epoch_order.h"
#include "loci/data/image/augment.h"
#include "loci/data/video/clip_folder.h"

namespace loci {

// What the network sees of a clip: T frames, each frame_step behind the one before. Where the clip has ended its last
// frame is repeated.
struct ClipWindows {
  int64_t frames = 8;      // T
  int64_t frame_step = 1;  // 2: every other frame
  int64_t eval_clips = 1;  // N windows of an evaluation, evenly spread; one is centred
  void fields(ConfigFields& f);

  int64_t span() const { return (frames - 1) * frame_step + 1; }  // W
  // In how many places a window can begin.
  int64_t starts(int64_t clip_frames) const { return clip_frames > span() ? clip_frames - span() + 1 : 1; }
  // Where window n of an evaluation begins.
  int64_t centred(int64_t clip_frames, int64_t n) const {
    return (starts(clip_frames) - 1) * (2 * n + 1) / (2 * eval_clips);
  }
};

// Training: a batch is a pure function of (seed, step, micro), and any thread may make it. An epoch visits each clip
// once; where its window begins and how it is shifted, cut and mirrored, all frames alike, is drawn anew.
class ClipSampler {
 public:
  // `data` must live as long as the sampler. Throws Error (usage) for a batch below 1, and (input) when there is no
  // clip.
  ClipSampler(const LabelledClips& data, const ClipWindows& windows, const Augment& augment, int64_t batch,
              uint64_t seed);

  // position = step * micro-batches of a step + micro.
  void fill(int64_t position, float* input, int64_t* label) const;

 private:
  const LabelledClips& data_;
  ClipWindows windows_;
  Augment augment_;
  int64_t batch_;
  uint64_t seed_;
  EpochOrder order_;
};

// Evaluation: N windows of each clip, in order, cut around the centre.
class ClipSequence {
 public:
  ClipSequence(const LabelledClips& data, const ClipWindows& windows, const Augment& augment, int64_t batch);

  int64_t batches() const { return (std::ssize(data_.clips) + batch_ - 1) / batch_; }
  // input [batch N, T, ...]. Returns how many clips there are in the batch; the last one may have fewer.
  int64_t fill(int64_t index, float* input, int64_t* label) const;

 private:
  const LabelledClips& data_;
  ClipWindows windows_;
  Augment augment_;
  int64_t batch_;
};

}  // namespace loci
