#include "loci/data/image/image_batches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using ::testing::ElementsAre;

const ChannelScale kIdentity = {{0}, {1.0 / 255}};  // a byte becomes its value

// Grey 1 x 1 images with values and labels 0, 1, 2 ...
LabelledImages numbered_images(int64_t count) {
  LabelledImages data;
  std::vector<uint8_t> pixels(static_cast<size_t>(count));
  std::iota(pixels.begin(), pixels.end(), uint8_t{0});
  data.images = ImageSet({1, 1, 1}, pixels);
  data.labels.assign(pixels.begin(), pixels.end());
  return data;
}

struct ImageBatch {
  std::vector<float> input;
  std::vector<int64_t> label;
  bool operator==(const ImageBatch&) const = default;
};

ImageBatch image_batch(const ImageSampler& sampler, int64_t step, int64_t micro, int64_t batch, int64_t bytes = 1) {
  ImageBatch result{std::vector<float>(static_cast<size_t>(batch * bytes)), std::vector<int64_t>(batch)};
  sampler.fill(step, micro, result.input.data(), result.label.data());
  return result;
}

TEST(AugmentTest, TheScaleIsMeanAndDeviationOfTheChannels) {
  const ImageSet images({1, 2, 2}, {0, 7, 255, 7, 0, 7, 255, 7});
  const ChannelScale scale = channel_scale(images);
  EXPECT_THAT(scale.mean, ElementsAre(0.5, testing::DoubleEq(7 / 255.0)));
  EXPECT_THAT(scale.deviation, ElementsAre(testing::DoubleEq(0.5), 1));
  std::vector<float> output(4);
  Augment({1, 2, 2}, scale, {}, 1).plain(std::vector<uint8_t>{0, 7, 255, 9}.data(), output.data());
  EXPECT_THAT(output, ElementsAre(-1, 0, 1, testing::FloatEq(2.0f / 255)));
  expect_error(ExitCode::input, "there must be an image", [] { channel_scale(ImageSet()); });
  expect_error(ExitCode::usage, "mean and deviation must have 2 channels, got 1 and 2",
               [] { Augment({1, 1, 2}, {{0}, {1, 1}}, {}, 1); });
  for (const double bad : {0.0, -1.0, std::nan("")}) {
    expect_error(ExitCode::usage, "deviation above 0", [&] { Augment({1, 1, 1}, {{0}, {bad}}, {}, 1); });
  }
}

// The first half is black and the second white, so that a sample of neighbours would have another mean.
TEST(AugmentTest, TheScaleOfManyImagesIsThatOfARandomSample) {
  std::vector<uint8_t> pixels(400000);
  std::fill(pixels.begin() + 200000, pixels.end(), uint8_t{255});
  const ChannelScale scale = channel_scale(ImageSet({1, 2, 1}, pixels));
  EXPECT_NEAR(scale.mean[0], 0.5, 0.008);  // 5 deviations of a mean of 100,000
  EXPECT_NEAR(scale.deviation[0], 0.5, 0.001);
}

// Each output is the input shifted and perhaps mirrored, with 0 where nothing was; each case comes as often as others.
TEST(AugmentTest, ShiftsAndMirrorsEvenly) {
  const std::vector<uint8_t> pixels = {1, 2, 3, 4, 5, 6};  // [2, 3]
  const Augment augment({2, 3, 1}, kIdentity, {.crop_padding = 1}, 5);
  std::map<std::vector<float>, int> seen;
  std::vector<float> output(6);
  constexpr int draws = 18000;
  for (uint64_t draw = 0; draw < draws; ++draw) {
    augment.random(pixels.data(), draw, output.data());
    for (float& value : output) value = std::round(value);
    ++seen[output];
  }
  std::set<std::vector<float>> expected;
  for (int down = -1; down <= 1; ++down) {
    for (int right = -1; right <= 1; ++right) {
      for (const bool mirrored : {false, true}) {
        std::vector<float> shifted;
        for (int y = 0; y < 2; ++y) {
          for (int x = 0; x < 3; ++x) {
            const int from_y = y + down, from_x = (mirrored ? 2 - x : x) + right;
            const bool inside = from_y >= 0 && from_y < 2 && from_x >= 0 && from_x < 3;
            shifted.push_back(inside ? pixels[from_y * 3 + from_x] : 0);
          }
        }
        expected.insert(shifted);
      }
    }
  }
  ASSERT_EQ(expected.size(), 18u);
  ASSERT_EQ(seen.size(), 18u);
  for (const auto& [image, count] : seen) {
    EXPECT_TRUE(expected.contains(image));
    EXPECT_NEAR(count, draws / 18, 5 * std::sqrt(draws / 18));
  }
}

TEST(AugmentTest, WithoutAugmentationAnImageStaysAsItIs) {
  const Augment augment({1, 3, 1}, kIdentity, {.crop_padding = 0, .mirror = false}, 5);
  std::vector<float> plain(3), random(3);
  for (uint64_t draw = 0; draw < 20; ++draw) {
    augment.plain(std::vector<uint8_t>{1, 2, 3}.data(), plain.data());
    augment.random(std::vector<uint8_t>{1, 2, 3}.data(), draw, random.data());
    EXPECT_EQ(plain, random);
  }
}

TEST(ImageSamplerTest, AnEpochVisitsEachImageOnceWithItsLabel) {
  const LabelledImages data = numbered_images(30);
  const ImageSampler sampler(data, kIdentity, {.crop_padding = 0}, 5, 1, 2);
  std::vector<std::vector<int64_t>> epochs;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t> labels;
    for (int64_t step = epoch * 3; step < epoch * 3 + 3; ++step) {
      for (const int64_t micro : {0, 1}) {
        const ImageBatch batch = image_batch(sampler, step, micro, 5);
        for (size_t i = 0; i < 5; ++i) EXPECT_FLOAT_EQ(batch.input[i], static_cast<float>(batch.label[i]));
        labels.insert(labels.end(), batch.label.begin(), batch.label.end());
      }
    }
    epochs.push_back(labels);
    EXPECT_EQ(std::set(labels.begin(), labels.end()).size(), 30u);
  }
  EXPECT_NE(epochs[0], epochs[1]);
}

TEST(ImageSamplerTest, IsAFunctionOfSeedStepAndMicroOnAnyThread) {
  LabelledImages data;
  std::vector<uint8_t> pixels(7 * 4 * 4 * 3);
  std::iota(pixels.begin(), pixels.end(), uint8_t{0});
  data.images = ImageSet({4, 4, 3}, pixels);
  data.labels = {0, 1, 2, 3, 4, 5, 6};
  const ChannelScale scale = channel_scale(data.images);
  const ImageSampler sampler(data, scale, {}, 3, 9, 2), other(data, scale, {}, 3, 10, 2);
  std::vector<ImageBatch> forward(20), backward(20);
  std::thread ahead([&] {
    for (int64_t i = 0; i < 20; ++i) forward[i] = image_batch(sampler, i / 2, i % 2, 3, 48);
  });
  for (int64_t i = 19; i >= 0; --i) backward[i] = image_batch(sampler, i / 2, i % 2, 3, 48);
  ahead.join();
  EXPECT_EQ(forward, backward);
  EXPECT_NE(image_batch(other, 0, 0, 3, 48), forward[0]);
}

TEST(ImageSamplerTest, AugmentationDoesNotDependOnTheSizeOfBatches) {
  LabelledImages data;
  data.images = ImageSet({1, 4, 1}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  data.labels = {0, 1, 2};
  const AugmentOptions mirror = {.crop_padding = 0};
  const ImageSampler single(data, kIdentity, mirror, 1, 3), triple(data, kIdentity, mirror, 3, 3);
  std::vector<float> one_by_one;
  for (int64_t step = 0; step < 36; ++step) {
    const ImageBatch batch = image_batch(single, step, 0, 1, 4);
    one_by_one.insert(one_by_one.end(), batch.input.begin(), batch.input.end());
  }
  std::vector<float> at_once;
  for (int64_t step = 0; step < 12; ++step) {
    const ImageBatch batch = image_batch(triple, step, 0, 3, 4);
    at_once.insert(at_once.end(), batch.input.begin(), batch.input.end());
  }
  EXPECT_EQ(one_by_one, at_once);
}

// Numbers of the first version: a seed keeps its batches, so that results can be repeated.
TEST(ImageSamplerTest, ASeedKeepsItsBatches) {
  LabelledImages data;
  data.images = ImageSet({1, 3, 1}, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  data.labels = {0, 1, 2};
  const ImageSampler sampler(data, {{0}, {1.0 / 255}}, {.crop_padding = 1}, 3, 42);
  std::vector<int> values;
  for (int64_t step = 0; step < 2; ++step) {
    for (const float value : image_batch(sampler, step, 0, 3, 3).input) values.push_back(std::lround(value));
  }
  EXPECT_THAT(values, ElementsAre(7, 8, 9, 0, 0, 0, 6, 5, 4, 0, 0, 0, 0, 6, 5, 0, 0, 0));
}

TEST(ImageSequenceTest, GivesEachImageOnceInOrder) {
  const LabelledImages data = numbered_images(7);
  const ImageSequence sequence(data, kIdentity, 3);
  ASSERT_EQ(sequence.batches(), 3);
  std::vector<int64_t> labels;
  for (int64_t index = 0; index < 3; ++index) {
    std::vector<float> input(3, -1);
    std::vector<int64_t> label(3, -1);
    const int64_t count = sequence.fill(index, input.data(), label.data());
    EXPECT_EQ(count, index < 2 ? 3 : 1);
    for (int64_t i = 0; i < count; ++i) EXPECT_FLOAT_EQ(input[i], static_cast<float>(label[i]));
    labels.insert(labels.end(), label.begin(), label.begin() + count);
  }
  EXPECT_EQ(labels, data.labels);
  float input = 0;
  int64_t label = 0;
  expect_error(ExitCode::bug, "index must be in 0 .. 2, got 3", [&] { sequence.fill(3, &input, &label); });
}

TEST(ImageBatchesTest, BadSizesAreRefused) {
  const LabelledImages none, data = numbered_images(2);
  expect_error(ExitCode::input, "there must be an image", [&] { ImageSequence(none, kIdentity, 1); });
  expect_error(ExitCode::usage, "batch must be at least 1, got 0", [&] { ImageSequence(data, kIdentity, 0); });
  expect_error(ExitCode::usage, "micro_batches must be at least 1",
               [&] { ImageSampler(data, kIdentity, {}, 1, 1, 0); });
  LabelledImages odd = numbered_images(2);
  odd.labels.pop_back();
  expect_error(ExitCode::bug, "there must be 2 labels, got 1", [&] { ImageSequence(odd, kIdentity, 1); });
  float input = 0;
  int64_t label = 0;
  const ImageSampler sampler(data, kIdentity, {}, 1, 1);
  expect_error(ExitCode::bug, "micro in 0 .. 0", [&] { sampler.fill(0, 1, &input, &label); });
}

}  // namespace
}  // namespace loci
