#include "loci/data/video/clip_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "loci/base/check.h"
#include "tests/image_files.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ClipFolderTest : public testing::Test {
 protected:
  // A grey PNG of one value.
  std::filesystem::path put(const std::string& name, int value = 7, int width = 4, int height = 3) {
    const PngForm form = {.width = width, .height = height, .color_type = PNG_COLOR_TYPE_GRAY};
    return put_file(folder_ / name, png_bytes(form, std::string(static_cast<size_t>(width * height), value)));
  }
  // Two clips to train on and two to test with.
  void put_two_classes() {
    put("train/jump/a/1.png", 10);
    put("train/jump/a/2.png", 11);
    put("train/walk/b/000001.png", 20);
    put("test/jump/a/1.png", 30);
    put("test/walk/c/1.png", 40);
    put("test/walk/c/02.PNG", 41);
  }
  ClipClasses load() {
    ProgressLine quiet(true);
    return load_clip_folder(folder_.path(), options_, quiet);
  }
  void expect_refused(const std::string& part) {
    expect_error(ExitCode::input, part, [&] { load(); });
  }
  std::string at(const std::string& name) const { return (folder_ / name).string(); }

  static std::vector<int> values(const LabelledClips& data, const Clip& clip) {
    std::vector<int> values;
    std::vector<uint8_t> pixels(static_cast<size_t>(data.frames.shape().bytes()));
    for (int64_t i = clip.first; i < clip.first + clip.frames; ++i) {
      data.frames.read(i, pixels.data());
      values.push_back(pixels[0]);
    }
    return values;
  }

  TemporaryFolder folder_;
  ImageOptions options_;
};

TEST_F(ClipFolderTest, FoldersOfFramesAreClips) {
  put_two_classes();
  const ClipClasses found = load();
  EXPECT_THAT(found.classes, ElementsAre("jump", "walk"));
  ASSERT_EQ(found.train.clips.size(), 2u);
  ASSERT_EQ(found.test.clips.size(), 2u);
  EXPECT_EQ(found.train.clips[1].name, "train/walk/b");
  EXPECT_EQ(found.train.clips[0].label, 0);
  EXPECT_EQ(found.train.clips[1].label, 1);
  EXPECT_THAT(values(found.train, found.train.clips[0]), ElementsAre(10, 11));
  EXPECT_THAT(values(found.train, found.train.clips[1]), ElementsAre(20));
  EXPECT_THAT(values(found.test, found.test.clips[1]), ElementsAre(40, 41));
  EXPECT_TRUE(found.notices.empty());
  EXPECT_EQ(found.inventory.files.size(), 6u);
}

TEST_F(ClipFolderTest, FramesFollowTheirNumbers) {
  put_two_classes();
  for (int i = 0; i < 12; ++i) put(fmt::format("train/jump/long/frame{}.png", i), 100 + i);
  const ClipClasses found = load();
  EXPECT_THAT(values(found.train, found.train.clips[1]),
              ElementsAre(100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111));
  std::vector<std::string> names = {"b", "a10", "a9b2", "a9b", "a09", "a9", "a", ""};
  std::ranges::sort(names, frame_before);
  EXPECT_THAT(names, ElementsAre("", "a", "a09", "a9", "a9b", "a9b2", "a10", "b"));
}

// Names, order and pixels decide; limits of memory do not, and clips beyond them are the same.
TEST_F(ClipFolderTest, TheKeyIsThatOfTheFrames) {
  put_two_classes();
  const std::string key = load().inventory.key();
  options_.memory_mib = 0;
  const ClipClasses decoded_when_needed = load();
  EXPECT_EQ(decoded_when_needed.inventory.key(), key);
  EXPECT_EQ(decoded_when_needed.train.frames.held(), 0);
  EXPECT_THAT(values(decoded_when_needed.test, decoded_when_needed.test.clips[1]), ElementsAre(40, 41));
  options_.size = {2, 2};
  EXPECT_NE(load().inventory.key(), key);
  options_.size = {};
  put("test/walk/c/02.PNG", 42);
  EXPECT_NE(load().inventory.key(), key);
}

TEST_F(ClipFolderTest, OtherFilesAreCountedAndLeftOut) {
  put_two_classes();
  put("train/jump/a/deeper/1.png");
  put("train/jump/outside.png");
  put("outside.png");
  put_file(folder_ / "train/walk/b/sound.wav", "");
  put_file(folder_ / ".git/config", "");
  const ClipClasses found = load();
  EXPECT_EQ(found.train.frames.size(), 3);
  EXPECT_THAT(found.notices, ElementsAre(HasSubstr("no frame of a clip: 4 (outside.png, train/jump/a/deeper/1.png"),
                                         HasSubstr("hidden: 1")));
}

TEST_F(ClipFolderTest, ADamagedFrameIsNamed) {
  put_two_classes();
  const std::string whole = jpeg_bytes({.width = 4, .height = 3}, repeated("abc", 12));
  put_file(folder_ / "train/walk/b/000002.jpg", whole.substr(0, whole.size() - 5));
  expect_refused(at("train/walk/b/000002.jpg") + ": the file must be a whole JPEG image");
  put_file(folder_ / "train/walk/b/000002.jpg", "no image");
  expect_refused(at("train/walk/b/000002.jpg") + ": the file must be a JPEG or PNG image");
  put_file(folder_ / "train/walk/b/000002.jpg", "");
  expect_refused("000002.jpg: the file must be a JPEG or PNG image, got an empty file");
}

TEST_F(ClipFolderTest, AnotherSizeIsNamedOrScaled) {
  put_two_classes();
  put("test/walk/c/3.png", 42, 8, 8);
  expect_refused(
      at("test/walk/c/3.png") +
      ": images must have one size, 3 x 4 as train/jump/a/1.png, or be scaled (size = [height, width]), got 8 x 8");
  options_.size = {2, 5};
  const ClipClasses found = load();
  EXPECT_EQ(found.test.frames.shape(), (ImageShape{2, 5, 3}));
  EXPECT_THAT(values(found.test, found.test.clips[1]), ElementsAre(40, 41, 42));
}

TEST_F(ClipFolderTest, ClipsWithoutFramesAreRefused) {
  put_two_classes();
  std::filesystem::create_directories(folder_ / "train/walk/empty");
  expect_refused(at("train/walk/empty") + ": a clip must hold frames (.jpg, .jpeg, .png), got none");
  put_file(folder_ / "train/walk/empty/notes.txt", "text");
  expect_refused(at("train/walk/empty") + ": a clip must hold frames");
  std::filesystem::remove_all(folder_ / "train/walk/empty");
  std::filesystem::create_directories(folder_ / "test/swim");
  expect_refused(at("test/swim") + ": a class must hold clips, which are folders of frames, got none");
  put("test/swim/1.png");  // not in a clip
  expect_refused(at("test/swim") + ": a class must hold clips");
}

TEST_F(ClipFolderTest, ClassesMustMatch) {
  put_two_classes();
  put("train/swim/a/1.png");
  expect_refused(at("test") + ": train and test must hold clips of the same classes, got none of swim");
  std::filesystem::remove_all(folder_ / "test");
  expect_refused("none of jump, swim, walk");
}

TEST_F(ClipFolderTest, OtherFoldersAreRefused) {
  expect_refused(": the folder must hold train/CLASS/CLIP and test/CLASS/CLIP with frames (.jpg, .jpeg, .png), got 0");
  put("jump/a/1.png");
  expect_refused("got 0 hidden and 1 other files");
  ProgressLine quiet(true);
  expect_error(ExitCode::input, "none: the clips must be a folder, got No such file",
               [&] { load_clip_folder(folder_ / "none", options_, quiet); });
  expect_error(ExitCode::input, "the clips must be a folder, got a file",
               [&] { load_clip_folder(folder_ / "jump/a/1.png", options_, quiet); });
}

TEST_F(ClipFolderTest, ClipsWithoutLabelsMayStandAnywhere) {
  put("1.png", 1);
  put("2.png", 2);
  put("trip/day/10.png", 30);
  put("trip/day/9.png", 29);
  ProgressLine quiet(true);
  const LabelledClips found = load_clips(folder_.path(), options_, quiet);
  ASSERT_EQ(found.clips.size(), 2u);
  EXPECT_EQ(found.clips[0].name, ".");
  EXPECT_EQ(found.clips[1].name, "trip/day");
  EXPECT_THAT(values(found, found.clips[0]), ElementsAre(1, 2));
  EXPECT_THAT(values(found, found.clips[1]), ElementsAre(29, 30));
  const TemporaryFolder nothing;
  expect_error(ExitCode::input, "the folder must hold clips of frames (.jpg, .jpeg, .png), got 0 other files",
               [&] { load_clips(nothing.path(), options_, quiet); });
}

}  // namespace
}  // namespace loci
