#include "loci/data/video/clip_batches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <thread>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::Key;
using ::testing::UnorderedElementsAre;

const ChannelScale kBytes = {{0}, {1.0 / 255}};  // a byte becomes its value
constexpr AugmentOptions kStill = {.crop_padding = 0, .mirror = false};

// Clips of so many frames of 1 x 1 pixel: frame t of clip c is 10 c + t.
LabelledClips numbered_clips(const std::vector<int64_t>& lengths) {
  LabelledClips data;
  std::vector<uint8_t> pixels;
  for (size_t c = 0; c < lengths.size(); ++c) {
    data.clips.push_back({"clip", std::ssize(pixels), lengths[c], static_cast<int64_t>(c)});
    for (int64_t t = 0; t < lengths[c]; ++t) pixels.push_back(static_cast<uint8_t>(10 * c + t));
  }
  data.frames = ImageSet({1, 1, 1}, pixels);
  return data;
}

std::vector<int> rounded(const std::vector<float>& values) {
  std::vector<int> result;
  for (const float value : values) result.push_back(static_cast<int>(std::lround(value)));
  return result;
}

struct ClipTestBatch {
  std::vector<float> input;
  std::vector<int64_t> label;
  bool operator==(const ClipTestBatch&) const = default;
};

ClipTestBatch batch_at(const ClipSampler& sampler, int64_t position, int64_t batch, int64_t numbers) {
  ClipTestBatch result{std::vector<float>(static_cast<size_t>(batch * numbers)),
                       std::vector<int64_t>(static_cast<size_t>(batch))};
  sampler.fill(position, result.input.data(), result.label.data());
  return result;
}

TEST(ClipWindowsTest, AreCentredAndEvenlySpread) {
  const ClipWindows one = {.frames = 3, .frame_step = 2};
  EXPECT_EQ(one.span(), 5);
  EXPECT_EQ(one.starts(9), 5);
  EXPECT_EQ(one.centred(9, 0), 2);
  EXPECT_EQ(one.starts(4), 1);
  EXPECT_EQ(one.centred(4, 0), 0);
  const ClipWindows three = {.frames = 2, .frame_step = 1, .eval_clips = 3};
  std::vector<int64_t> starts;
  for (int64_t n = 0; n < 3; ++n) starts.push_back(three.centred(14, n));
  EXPECT_THAT(starts, ElementsAre(2, 6, 10));
}

TEST(ClipSamplerTest, AnEpochVisitsEachClipOnceFromAnyStart) {
  const LabelledClips data = numbered_clips({5, 2, 7});
  const ClipSampler sampler(data, {.frames = 2, .frame_step = 2}, Augment({1, 1, 1}, kBytes, kStill, 5), 3, 5);
  std::map<std::vector<int>, int> seen;
  constexpr int64_t kEpochs = 400;
  for (int64_t position = 0; position < kEpochs; ++position) {
    const ClipTestBatch batch = batch_at(sampler, position, 3, 2);
    EXPECT_THAT(batch.label, UnorderedElementsAre(0, 1, 2));
    const std::vector<int> values = rounded(batch.input);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(values[2 * i] / 10, batch.label[i]);
      ++seen[{values[2 * i], values[2 * i + 1]}];
    }
  }
  // Three starts in the first clip, five in the last; the second is too short and repeats its last frame.
  using Window = std::vector<int>;
  EXPECT_THAT(seen, UnorderedElementsAre(Key(Window{0, 2}), Key(Window{1, 3}), Key(Window{2, 4}), Key(Window{10, 11}),
                                         Key(Window{20, 22}), Key(Window{21, 23}), Key(Window{22, 24}),
                                         Key(Window{23, 25}), Key(Window{24, 26})));
  for (const auto& [window, count] : seen) {
    const double expected = kEpochs / (window[0] < 10 ? 3.0 : window[0] < 20 ? 1.0 : 5.0);
    EXPECT_NEAR(count, expected, 5 * std::sqrt(expected)) << window[0];
  }
}

// Frames of one clip are shifted, cut and mirrored alike: each is the first one plus its number.
TEST(ClipSamplerTest, AllFramesOfAClipAreChangedAlike) {
  constexpr int64_t kSide = 6, kFrames = 4;
  LabelledClips data;
  std::vector<uint8_t> pixels;
  for (int64_t t = 0; t < kFrames; ++t) {
    for (int64_t p = 0; p < kSide * kSide; ++p) pixels.push_back(static_cast<uint8_t>(10 + p + 50 * t));
  }
  data.frames = ImageSet({kSide, kSide, 1}, pixels);
  data.clips = {{"clip", 0, kFrames, 0}};
  const Augment augment({kSide, kSide, 1}, kBytes, {.crop_padding = 0, .mirror = true}, 3, {4, 4, 1});
  const ClipSampler sampler(data, {.frames = kFrames}, augment, 1, 3);
  std::set<std::vector<int>> first_frames;
  for (int64_t position = 0; position < 200; ++position) {
    const std::vector<int> values = rounded(batch_at(sampler, position, 1, kFrames * 16).input);
    for (size_t i = 16; i < values.size(); ++i) ASSERT_EQ(values[i], values[i % 16] + 50 * static_cast<int>(i / 16));
    first_frames.insert({values.begin(), values.begin() + 16});
  }
  EXPECT_EQ(first_frames.size(), 3u * 3u * 2u);  // places of the cut, mirrored or not
}

TEST(ClipSamplerTest, IsAFunctionOfSeedAndPositionOnAnyThread) {
  const LabelledClips data = numbered_clips({6, 9, 4, 7});
  const auto sampler_of = [&](uint64_t seed) {
    return ClipSampler(data, {.frames = 2}, Augment({1, 1, 1}, kBytes, kStill, seed), 3, seed);
  };
  const ClipSampler sampler = sampler_of(9), other = sampler_of(10);
  std::vector<ClipTestBatch> forward(20), backward(20), others(20);
  std::thread ahead([&] {
    for (int64_t i = 0; i < 20; ++i) forward[static_cast<size_t>(i)] = batch_at(sampler, i, 3, 2);
  });
  for (int64_t i = 19; i >= 0; --i) backward[static_cast<size_t>(i)] = batch_at(sampler, i, 3, 2);
  ahead.join();
  EXPECT_EQ(forward, backward);
  for (int64_t i = 0; i < 20; ++i) others[static_cast<size_t>(i)] = batch_at(other, i, 3, 2);
  EXPECT_NE(others, forward);
  // One clip at a time: what is drawn belongs to the clip's visit, not to the batch.
  const ClipSampler single(data, {.frames = 2}, Augment({1, 1, 1}, kBytes, kStill, 9), 1, 9);
  for (int64_t i = 0; i < 60; ++i) {
    const ClipTestBatch batch = batch_at(single, i, 1, 2);
    EXPECT_EQ(batch.label[0], forward[static_cast<size_t>(i / 3)].label[static_cast<size_t>(i % 3)]);
    EXPECT_EQ(batch.input[0], forward[static_cast<size_t>(i / 3)].input[static_cast<size_t>(i % 3) * 2]);
  }
}

TEST(ClipSequenceTest, GivesTheWindowsOfEachClipInOrder) {
  const LabelledClips data = numbered_clips({5, 1, 8});
  const ClipSequence sequence(data, {.frames = 2, .eval_clips = 2}, Augment({1, 1, 1}, kBytes, kStill, 0), 2);
  ASSERT_EQ(sequence.batches(), 2);
  ClipTestBatch batch{std::vector<float>(8), std::vector<int64_t>(2)};
  EXPECT_EQ(sequence.fill(0, batch.input.data(), batch.label.data()), 2);
  EXPECT_THAT(rounded(batch.input), ElementsAre(0, 1, 2, 3, 10, 10, 10, 10));
  EXPECT_THAT(batch.label, ElementsAre(0, 1));
  EXPECT_EQ(sequence.fill(1, batch.input.data(), batch.label.data()), 1);
  EXPECT_THAT(std::vector<float>(batch.input.begin(), batch.input.begin() + 4), ElementsAre(21, 22, 24, 25));
  EXPECT_EQ(batch.label[0], 2);
  expect_error(ExitCode::bug, "index must be in 0 .. 1, got 2",
               [&] { sequence.fill(2, batch.input.data(), batch.label.data()); });
}

TEST(ClipBatchesTest, BadSizesAreRefused) {
  const LabelledClips none, data = numbered_clips({2});
  const Augment augment({1, 1, 1}, kBytes, kStill, 0);
  expect_error(ExitCode::input, "there must be a clip, got none", [&] { ClipSequence(none, {}, augment, 1); });
  expect_error(ExitCode::usage, "batch must be at least 1, got 0", [&] { ClipSampler(data, {}, augment, 0, 1); });
  expect_error(ExitCode::usage, "Augment: the cut must be within 1 x 1, got 2 x 1",
               [] { Augment({1, 1, 1}, kBytes, kStill, 0, {2, 1, 1}); });
}

// The centre is cut in evaluation.
TEST(ClipBatchesTest, EvaluationCutsTheCentre) {
  LabelledClips data;
  data.frames = ImageSet({3, 3, 1}, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  data.clips = {{"clip", 0, 1, 0}};
  const ClipSequence sequence(data, {.frames = 1}, Augment({3, 3, 1}, kBytes, {}, 0, {1, 1, 1}), 1);
  float input = 0;
  int64_t label = 1;
  sequence.fill(0, &input, &label);
  EXPECT_FLOAT_EQ(input, 5);
}

}  // namespace
}  // namespace loci
