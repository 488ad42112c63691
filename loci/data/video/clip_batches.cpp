// Legend: T frames of a window.
#include "loci/data/video/clip_batches.h"

#include <fmt/format.h>

#include <algorithm>

#include "loci/base/check.h"
#include "loci/base/random.h"

namespace loci {
namespace {

constexpr int64_t kMostFrames = int64_t{1} << 20;

const LabelledClips& checked_clips(const LabelledClips& data, int64_t batch) {
  if (batch < 1) fail(ExitCode::usage, "clip_batches", "batch must be at least 1", fmt::to_string(batch));
  if (data.clips.empty()) fail(ExitCode::input, "clip_batches", "there must be a clip", "none");
  return data;
}

// Calls write(frame's number, its pixels) for each frame of the window that begins with `start`. A frame that is
// repeated is read once.
template <class Write>
void read_window(const LabelledClips& data, const Clip& clip, const ClipWindows& windows, int64_t start,
                 const Write& write) {
  std::vector<uint8_t> pixels(static_cast<size_t>(data.frames.shape().bytes()));
  int64_t held = -1;
  for (int64_t t = 0; t < windows.frames; ++t) {
    const int64_t frame = clip.first + std::min(start + t * windows.frame_step, clip.frames - 1);
    if (frame != held) data.frames.read(frame, pixels.data());
    held = frame;
    write(t, pixels.data());
  }
}

}  // namespace

void ClipWindows::fields(ConfigFields& f) {
  f.field("frames", frames, "frames that the network sees of a clip; a shorter clip repeats its last one",
          {.minimum = 1, .maximum = kMostFrames});
  f.field("frame_step", frame_step, "each is so many frames behind the one before",
          {.minimum = 1, .maximum = kMostFrames});
  f.field("eval_clips", eval_clips,
          "windows of a test clip, evenly spread, whose probabilities are averaged; training draws one",
          {.minimum = 1, .maximum = 1000});
}

ClipSampler::ClipSampler(const LabelledClips& data, const ClipWindows& windows, const Augment& augment, int64_t batch,
                         uint64_t seed)
    : data_(checked_clips(data, batch)),
      windows_(windows),
      augment_(augment),
      batch_(batch),
      seed_(seed),
      order_(std::ssize(data.clips), seed) {}

void ClipSampler::fill(int64_t position, float* input, int64_t* label) const {
  if (position < 0) {
    fail(ExitCode::bug, "clip_batches", "position must be at least 0", fmt::to_string(position));
  }
  const CounterRandom starts(seed_, "clip start");
  for (int64_t b = 0; b < batch_; ++b) {
    const EpochOrder::Visit visit = order_.at(position * batch_ + b);
    const Clip& clip = data_.clips[static_cast<size_t>(visit.item)];
    // By epoch and item, so that what is drawn does not depend on the size of batches.
    const uint64_t draw =
        static_cast<uint64_t>(visit.epoch) * static_cast<uint64_t>(order_.items()) + static_cast<uint64_t>(visit.item);
    const auto start = static_cast<int64_t>(starts.below(draw, static_cast<uint64_t>(windows_.starts(clip.frames))));
    float* const clip_input = input + b * windows_.frames * augment_.output().bytes();
    read_window(data_, clip, windows_, start, [&](int64_t t, const uint8_t* pixels) {
      augment_.random(pixels, draw, clip_input + t * augment_.output().bytes());
    });
    label[b] = clip.label;
  }
}

ClipSequence::ClipSequence(const LabelledClips& data, const ClipWindows& windows, const Augment& augment, int64_t batch)
    : data_(checked_clips(data, batch)), windows_(windows), augment_(augment), batch_(batch) {}

int64_t ClipSequence::fill(int64_t index, float* input, int64_t* label) const {
  if (index < 0 || index >= batches()) {
    fail(ExitCode::bug, "clip_batches", fmt::format("index must be in 0 .. {}", batches() - 1), fmt::to_string(index));
  }
  const int64_t begin = index * batch_, count = std::min(batch_, std::ssize(data_.clips) - begin);
  for (int64_t b = 0; b < count; ++b) {
    const Clip& clip = data_.clips[static_cast<size_t>(begin + b)];
    for (int64_t n = 0; n < windows_.eval_clips; ++n) {
      read_window(data_, clip, windows_, windows_.centred(clip.frames, n), [&](int64_t, const uint8_t* pixels) {
        augment_.plain(pixels, input);
        input += augment_.output().bytes();
      });
    }
    label[b] = clip.label;
  }
  return count;
}

}  // namespace loci
