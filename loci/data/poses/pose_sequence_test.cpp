#include "loci/data/poses/pose_sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "loci/base/check.h"
#include "loci/data/poses/pose_metrics.h"
#include "tests/image_files.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using ::testing::ElementsAre;

const std::string kIdentityLine = "1 0 0 1.5 0 1 0 -2 0 0 1 3e-1 0 0 0 1\n";

void expect_poses_refused(const std::string& text, const std::string& part) {
  expect_error(ExitCode::input, part, [&] { parse_poses(text, "poses.txt"); });
}

class PoseSequenceTest : public testing::Test {
 protected:
  void put_frame(const std::string& name, int value = 7) {
    const PngForm form = {.width = 4, .height = 3, .color_type = PNG_COLOR_TYPE_GRAY};
    put_file(folder_ / name, png_bytes(form, std::string(12, static_cast<char>(value))));
  }
  PoseSequence load() {
    ProgressLine quiet(true);
    return load_pose_sequence(folder_.path(), {}, quiet);
  }
  void expect_refused(const std::string& part) {
    expect_error(ExitCode::input, part, [&] { load(); });
  }

  TemporaryFolder folder_;
};

TEST(PosesTest, ALineIsTheMatrixFromCameraToWorld) {
  const std::vector<Pose> poses = parse_poses(kIdentityLine + "\n0 -1 0 7\t1 0 0 8  0 0 1 9 0 0 0 1\r\n", "poses.txt");
  ASSERT_EQ(poses.size(), 2u);
  EXPECT_EQ(poses[0].position, (Vector3{1.5, -2, 0.3}));
  EXPECT_EQ(poses[0].rotation, Quaternion());
  EXPECT_EQ(poses[1].position, (Vector3{7, 8, 9}));
  EXPECT_NEAR(degrees_between(poses[1].rotation, {std::sqrt(0.5), 0, 0, std::sqrt(0.5)}), 0, 1e-12);
}

TEST(PosesTest, ARotationThatIsSlightlyOffIsReplacedByTheNearest) {
  const std::vector<Pose> poses = parse_poses("0.9999 0 0 0 0 0.9998 0 0 0 0 0.9999 0 0 0 0 1", "poses.txt");
  EXPECT_NEAR(degrees_between(poses[0].rotation, {}), 0, 1e-9);
}

TEST(PosesTest, ABadLineIsNamed) {
  expect_poses_refused("", "poses.txt: there must be a pose, got none");
  expect_poses_refused("\n \n", "poses.txt: there must be a pose, got none");
  expect_poses_refused(kIdentityLine + "\n1 2 3", "poses.txt: line 3 must have 16 numbers, got 3");
  expect_poses_refused(kIdentityLine + "0 " + kIdentityLine, "line 2 must have 16 numbers, got 17");
  for (const std::string word : {"nan", "inf", "-inf", "1e999", "x", "1,5", "0x1", "1f"}) {
    std::string line = kIdentityLine;
    line.replace(line.find("1.5"), 3, word);
    expect_poses_refused(line, "poses.txt: line 1 must have finite numbers, got \"" + word + "\"");
  }
  expect_poses_refused("1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 2", "line 1 must end in 0 0 0 1, got 0 0 0 2");
  expect_poses_refused("1 0 0 0 0 1 0 0 0 0 1 0 1 -1 0 1", "line 1 must end in 0 0 0 1, got 1 -1 0 1");
}

TEST(PosesTest, WhatIsNoRotationIsRefused) {
  expect_poses_refused("1 0 0 0 0 1 0 0 0 0 -1 0 0 0 0 1",
                       "must hold a rotation, of determinant 1, got a reflection, of -1");
  expect_poses_refused("2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", "must hold a rotation, R^T R = 1 within 0.01, got 3");
  expect_poses_refused("1 0.1 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "must hold a rotation, R^T R = 1 within 0.01, got 0.1");
  expect_poses_refused("0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1", "must hold a rotation, R^T R = 1 within 0.01, got 1");
  expect_poses_refused("1e200 0 0 0 0 1e200 0 0 0 0 1 0 0 0 0 1", "must hold a rotation");
}

TEST_F(PoseSequenceTest, FramesByNameHaveTheLinesPoses) {
  put_frame("frame-01.png", 1);
  put_frame("frame-00.png", 0);
  put_frame("depth/frame-00.png", 9);
  put_file(folder_ / "poses.txt", kIdentityLine + "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n");
  put_file(folder_ / "camera.txt", "f");
  const PoseSequence found = load();
  ASSERT_EQ(found.images.size(), 2);
  std::vector<uint8_t> pixels(36);
  found.images.read(1, pixels.data());
  EXPECT_EQ(pixels[0], 1);
  EXPECT_EQ(found.poses[1].position, (Vector3{0, 0, 0}));
  EXPECT_THAT(found.notices, ElementsAre("left out, no frame: 2 (camera.txt, depth/frame-00.png)"));
  EXPECT_EQ(found.inventory.files.size(), 3u);
  const std::string key = found.inventory.key();
  put_file(folder_ / "poses.txt", kIdentityLine + kIdentityLine);
  EXPECT_NE(load().inventory.key(), key);
}

TEST_F(PoseSequenceTest, FramesAndPosesMustBelongTogether) {
  expect_refused((folder_ / "poses.txt").string() + ": the file must be readable, got No such file");
  put_file(folder_ / "poses.txt", kIdentityLine + kIdentityLine);
  expect_refused("there must be an image for each of the 2 poses in poses.txt, got 0");
  put_frame("frame-9.png");
  expect_refused("there must be an image for each of the 2 poses in poses.txt, got 1");
  put_frame("frame-10.png");
  expect_refused(
      "names of frames must have one length, so that their order is clear, got frame-10.png and frame-9.png");
  std::filesystem::remove(folder_ / "frame-9.png");
  put_file(folder_ / "frame-09.png", "no image");
  expect_refused((folder_ / "frame-09.png").string() + ": the file must be a JPEG or PNG image");
}

TEST(PoseSplitTest, TestIsABlockOfTimeAndTheMarginIsInNeitherPart) {
  const PoseSplit split = split_poses(1000, {});
  ASSERT_EQ(split.test.size(), 150u);
  EXPECT_EQ(split.test.front(), 700);
  EXPECT_EQ(split.test.back(), 849);
  EXPECT_EQ(split.train.size(), 850u);
  const PoseSplit strict = split_poses(1000, {{}, 30});
  EXPECT_EQ(strict.test, split.test);
  ASSERT_EQ(strict.train.size(), 790u);
  EXPECT_EQ(strict.train[669], 669);
  EXPECT_EQ(strict.train[670], 880);
  const PoseSplit two = split_poses(10, {.test_blocks = {0, 1, 6, 6}, .margin = 1});
  EXPECT_THAT(two.test, ElementsAre(0, 1, 6));
  EXPECT_THAT(two.train, ElementsAre(3, 4, 8, 9));
}

TEST(PoseSplitTest, BlocksMustBeAscendingRangesOfTheFrames) {
  for (const std::vector<int64_t>& blocks :
       {std::vector<int64_t>{1}, {3, 2}, {0, 10}, {-1, 3}, {0, 3, 3, 5}, {5, 6, 0, 1}, {0, 1, 2}}) {
    expect_error(ExitCode::usage, "they must be ascending pairs first, last of the frames 0 .. 9",
                 [&] { split_poses(10, {.test_blocks = blocks}); });
  }
  expect_error(ExitCode::usage, "they must leave frames to train on", [] { split_poses(10, {.test_blocks = {0, 9}}); });
  expect_error(ExitCode::usage, "none of 10 with a margin of 7", [] { split_poses(10, {{}, 7}); });
  expect_error(ExitCode::usage, "none of 10 with a margin of 9223372036854775807",
               [] { split_poses(10, {{}, std::numeric_limits<int64_t>::max()}); });
  expect_error(ExitCode::usage, "ascending pairs", [] { split_poses(1, {}); });
}

TEST(PoseMetricsTest, ErrorsAreMediansAndShares) {
  const auto turned = [](double degrees) { return exp_of({0, 0, degrees * std::numbers::pi / 360}); };
  const std::vector<Pose> truth(4),
      predicted = {
          {{0.1, 0, 0}, turned(1)}, {{0, 0.4, 0}, turned(-4)}, {{0, 0, 0.2}, turned(10)}, {{3, 4, 0}, turned(180)}};
  const PoseErrors errors = pose_errors(predicted, truth);
  EXPECT_NEAR(errors.metres, 0.3, 1e-12);
  EXPECT_NEAR(errors.degrees, 7, 1e-9);
  EXPECT_EQ(errors.within_fine, 0.25);
  EXPECT_EQ(errors.within_coarse, 0.5);
  std::vector<Pose> broken = predicted;
  broken[2].rotation.x = NAN;
  expect_error(ExitCode::numbers, "predicted poses must be finite, got NaN or infinity in 2",
               [&] { pose_errors(broken, truth); });
  expect_error(ExitCode::bug, "there must be 4 predictions", [&] { pose_errors({}, truth); });
}

TEST(PoseMetricsTest, TheMedianPoseIsTheMiddleOfEachAxisAndOfTheRotations) {
  std::vector<Pose> poses(5);
  for (int i = 0; i < 5; ++i) {
    const double angle = i == 4 ? 1.5 : 0.1 * i;
    poses[i] = {{static_cast<double>(i), static_cast<double>(-i), i == 4 ? 100.0 : 0}, exp_of({0, angle, 0})};
  }
  const Pose median = median_pose(poses);
  EXPECT_EQ(median.position, (Vector3{2, -2, 0}));
  EXPECT_EQ(median.rotation, exp_of({0, 0.2, 0}));
}

// Stripes at another place for each image; brightness and contrast do not matter.
TEST(PoseMetricsTest, TheNearestImageLooksAlikeAndTheOracleIsNearest) {
  constexpr int64_t count = 6;
  constexpr int base[count] = {180, 120, 40, 30, 30, 30};  // the darkest is nearest to all where brightness counts
  std::vector<uint8_t> pixels;
  std::vector<Pose> poses(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t stripe = i % 3;
    for (int64_t y = 0; y < 30; ++y) {
      for (int64_t x = 0; x < 40; ++x) {
        const int value = base[i] + (x / 10 == stripe ? (i < 3 ? 60 : 20) : 0);
        pixels.insert(pixels.end(), 3, static_cast<uint8_t>(value));
      }
    }
    poses[i].position = {static_cast<double>((i * 2) % 5), 0, 0};
  }
  const ImageSet images({30, 40, 3}, pixels);
  const std::vector<int64_t> train = {0, 1, 2}, test = {3, 4, 5};
  EXPECT_THAT(nearest_images(images, train, test), ElementsAre(0, 1, 2));
  // Positions 0, 2, 4 of train; 1, 3, 0 of test.
  EXPECT_THAT(nearest_positions(poses, train, test), ElementsAre(0, 1, 0));
  const PoseBaselines baselines = pose_baselines(images, poses, train, test);
  EXPECT_EQ(baselines.constant.metres, 1);
  EXPECT_EQ(baselines.nearest_image.metres, 1);
  EXPECT_EQ(baselines.oracle.metres, 1);
  expect_error(ExitCode::bug, "there must be a known pose", [&] { nearest_images(images, {}, test); });
}

}  // namespace
}  // namespace loci
