#include "loci/data/video/skeleton_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using ::testing::ElementsAre;

// Two joints; the second is 2 above the first, and both move right by 3 a frame.
constexpr const char* kTrainCsv =
    "clip,label,frame,x0,y0,x1,y1\n"
    "0,walk,0,1,10,1,12\n"
    "0,walk,1,4,10,4,12\n"
    "1,jump,0,0,0,4,2\n";
constexpr const char* kTestCsv =
    "clip,label,frame,x0,y0,x1,y1\r\n"
    "0,jump,0,0.5,1,0.5,5\r\n"
    "1,walk,0,0,-1.5,0,0.5";

class SkeletonFileTest : public testing::Test {
 protected:
  SkeletonFileTest() {
    put("train.csv", kTrainCsv);
    put("test.csv", kTestCsv);
  }
  void put(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  void expect_refused(const std::string& train, const std::string& message) {
    put("train.csv", train);
    expect_error(ExitCode::input, (folder_ / "train.csv").string() + ": " + message,
                 [&] { load_skeletons(folder_.path()); });
  }
  TemporaryFolder folder_;
};

TEST_F(SkeletonFileTest, CentresFramesAndDividesByTheHeight) {
  const SkeletonClips found = load_skeletons(folder_.path());
  EXPECT_THAT(found.classes, ElementsAre("jump", "walk"));
  EXPECT_EQ(found.joints, 2);
  ASSERT_EQ(found.train.size(), 2u);
  EXPECT_EQ(found.train[0].label, 1);
  EXPECT_EQ(found.train[0].frames, 2);
  EXPECT_THAT(found.train[0].joints, ElementsAre(0, -0.5, 0, 0.5, 0, -0.5, 0, 0.5));
  EXPECT_THAT(found.train[1].joints, ElementsAre(-1, -0.5, 1, 0.5));
  EXPECT_EQ(found.test[0].label, 0);
  EXPECT_THAT(found.test[1].joints, ElementsAre(0, -0.5, 0, 0.5));
  const std::string key = found.inventory.key();
  EXPECT_EQ(load_skeletons(folder_.path()).inventory.key(), key);
  put("test.csv", std::string(kTestCsv) + "1");
  EXPECT_NE(load_skeletons(folder_.path()).inventory.key(), key);
}

TEST_F(SkeletonFileTest, FramesBetweenFramesAreInterpolated) {
  SkeletonClip clip;
  clip.frames = 3;
  clip.joints = {0, 10, 2, 20, 4, 30, 6, 40, 0, 0, 0, 0};  // [3, 2, 2]
  std::vector<float> map(2 * 5 * 2);
  resample_skeleton(clip, 0, 2, 5, map.data());
  EXPECT_THAT(map, ElementsAre(0, 2, 2, 4, 4, 6, 2, 3, 0, 0, 10, 20, 20, 30, 30, 40, 15, 20, 0, 0));
  map.resize(2 * 2 * 2);
  resample_skeleton(clip, 0.5, 1, 2, map.data());
  EXPECT_THAT(map, ElementsAre(2, 4, 4, 6, 20, 30, 30, 40));
  map.resize(2 * 1 * 2);
  resample_skeleton(clip, 0, 1, 1, map.data());
  EXPECT_THAT(map, ElementsAre(2, 4, 20, 30));
  clip.frames = 1;
  clip.joints = {1, 2, 3, 4};
  resample_skeleton(clip, 0, 0, 1, map.data());
  EXPECT_THAT(map, ElementsAre(1, 3, 2, 4));
}

TEST_F(SkeletonFileTest, DamagedLinesAreNamed) {
  const std::string head = "clip,label,frame,x0,y0,x1,y1\n";
  expect_refused("", "the file must hold frames of clips, got none");
  expect_refused(head, "the file must hold frames of clips, got none");
  expect_refused("0,walk,0,1,10,1,12\n",
                 "line 1 must be clip,label,frame,x0,y0,x1,y1,..., got 7 "
                 "columns, \"0\" ...");
  expect_refused("clip,label,frame,x0\n", "line 1 must be clip,label,frame,x0,y0,x1,y1,..., got 4 columns");
  expect_refused(head + "0,walk,0,1,10,1\n", "line 2 must have 7 columns, got 6");
  expect_refused(head + "0,walk,0,1,10,1,12\n\n", "line 3 must have 7 columns, got 1");
  expect_refused(head + "0,walk,0,1,10,1,many\n", "line 2 must have finite numbers, got \"many\"");
  expect_refused(head + "0,walk,0,1,10,1,nan\n", "line 2 must have finite numbers, got \"nan\"");
  expect_refused(head + "0,walk,0,1,10,1,1.5x\n", "line 2 must have finite numbers, got \"1.5x\"");
  expect_refused(head + "0,walk,1,1,10,1,12\n", "line 2 must be frame 0 of clip 0, got \"1\"");
  expect_refused(head + "0,walk,0,1,10,1,12\n0,walk,2,1,10,1,12\n", "line 3 must be frame 1 of clip 0, got \"2\"");
  expect_refused(head + "0,walk,0,1,10,1,12\n0,jump,1,1,10,1,12\n",
                 "line 3 must have the label walk of its clip, got \"jump\"");
  expect_refused(head + "0,,0,1,10,1,12\n", "line 2 must have a label, got none");
  expect_refused(head + "0,walk,0,1,10,2,10\n", "a skeleton must have a height, got 0");
}

TEST_F(SkeletonFileTest, PartsMustFitEachOther) {
  put("test.csv", "clip,label,frame,x0,y0\n0,walk,0,1,2\n");
  expect_error(ExitCode::input, "test.csv: a skeleton must have a height", [&] { load_skeletons(folder_.path()); });
  put("test.csv", "clip,label,frame,x0,y0,x1,y1,x2,y2\n0,walk,0,1,2,3,4,5,6\n");
  expect_error(ExitCode::input, "test.csv: skeletons must have 2 joints as those of train.csv, got 3",
               [&] { load_skeletons(folder_.path()); });
  put("test.csv", "clip,label,frame,x0,y0,x1,y1\n0,walk,0,1,2,3,4\n");
  expect_error(ExitCode::input, "train and test must hold clips of the same classes, got none of jump",
               [&] { load_skeletons(folder_.path()); });
  std::filesystem::remove(folder_ / "test.csv");
  expect_error(ExitCode::input, "test.csv", [&] { load_skeletons(folder_.path()); });
}

}  // namespace
}  // namespace loci
