#include "loci/data/image/image_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "tests/image_files.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

class ImageFolderTest : public testing::Test {
 protected:
  // A grey PNG of one value.
  std::filesystem::path put(const std::string& name, int value = 7, int width = 4, int height = 3) {
    const PngForm form = {.width = width, .height = height, .color_type = PNG_COLOR_TYPE_GRAY};
    return put_file(folder_ / name, png_bytes(form, std::string(static_cast<size_t>(width * height), value)));
  }
  // train and test of two classes.
  void put_two_classes() {
    put("train/cat/1.png", 10);
    put("train/cat/2.png", 11);
    put("train/dog/1.png", 20);
    put("test/cat/1.png", 30);
    put("test/dog/1.PNG", 40);
  }
  ImageClasses load() {
    ProgressLine quiet(true);
    return load_image_folder(folder_.path(), options_, quiet);
  }
  void expect_refused(const std::string& part) {
    expect_error(ExitCode::input, part, [&] { load(); });
  }
  // The first value of each image, by number.
  static std::vector<int> values(const ImageSet& images) {
    std::vector<int> result;
    std::vector<uint8_t> pixels(static_cast<size_t>(images.shape().bytes()));
    for (int64_t i = 0; i < images.size(); ++i) {
      images.read(i, pixels.data());
      EXPECT_THAT(pixels, Each(pixels[0]));
      result.push_back(pixels[0]);
    }
    return result;
  }
  std::string at(const std::string& name) const { return (folder_ / name).string(); }

  TemporaryFolder folder_;
  ImageFolderOptions options_;
};

TEST_F(ImageFolderTest, TrainAndTestHaveTheirClassesByName) {
  put_two_classes();
  put("train/dog/young/0.png", 21);
  put_file(folder_ / "README.md", "about");
  put("train/stray.png");
  put("other/cat/1.png");
  put("train/cat/.hidden.png");
  const ImageClasses found = load();
  EXPECT_THAT(found.classes, ElementsAre("cat", "dog"));
  EXPECT_EQ(found.train.images.shape(), (ImageShape{3, 4, 3}));
  EXPECT_THAT(values(found.train.images), ElementsAre(10, 11, 20, 21));
  EXPECT_THAT(found.train.labels, ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(values(found.test.images), ElementsAre(30, 40));
  EXPECT_THAT(found.test.labels, ElementsAre(0, 1));
  EXPECT_THAT(found.notices,
              ElementsAre("left out, no image of a class: 3 (README.md, other/cat/1.png, train/stray.png)",
                          "left out, hidden: 1 (train/cat/.hidden.png)"));
  EXPECT_EQ(found.inventory.files.size(), 6u);
  EXPECT_EQ(found.inventory.files[0].name, "test/cat/1.png");
}

TEST_F(ImageFolderTest, ImagesBeyondTheBudgetAreDecodedWhenTheyAreRead) {
  put_two_classes();
  options_.image.color = ImageColor::grey;
  for (int i = 0; i < 100; ++i) put(fmt::format("train/dog/more{:03}.png", i), i, 128, 128);
  for (const char* name :
       {"train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.PNG"}) {
    put(name, 200, 128, 128);
  }
  options_.image.memory_mib = 1;  // 64 images of 16 KiB
  const ImageClasses found = load();
  EXPECT_EQ(found.train.images.held(), 64);
  EXPECT_EQ(found.test.images.held(), 0);
  std::vector<int> expected = {200, 200, 200};
  for (int i = 0; i < 100; ++i) expected.push_back(i);
  EXPECT_EQ(values(found.train.images), expected);
  const std::string key = found.inventory.key();
  options_.image.memory_mib = 0;
  EXPECT_EQ(load().inventory.key(), key);
  put("train/dog/more099.png", 1, 128, 128);
  std::vector<uint8_t> pixels(128 * 128);
  expect_error(ExitCode::input, at("train/dog/more099.png") + ": the file must stay as it is while it is used",
               [&] { found.train.images.read(102, pixels.data()); });
  EXPECT_NE(load().inventory.key(), key);
}

TEST_F(ImageFolderTest, WithoutTrainAndTestAShareOfEachClassIsHeldOut) {
  for (int i = 0; i < 200; ++i) {
    put(fmt::format("a/{}.png", i), 1);
    put(fmt::format("b/{}.png", i), 2);
  }
  put("c/0.png", 3);
  put("c/1.png", 3);
  const ImageClasses found = load();
  EXPECT_THAT(found.classes, ElementsAre("a", "b", "c"));
  EXPECT_NEAR(found.test.images.size(), 41, 25);
  EXPECT_EQ(found.test.images.size() + found.train.images.size(), 402);
  EXPECT_EQ(std::set(found.test.labels.begin(), found.test.labels.end()).size(), 3u);
  EXPECT_EQ(std::set(found.train.labels.begin(), found.train.labels.end()).size(), 3u);
  const std::vector<int> test = values(found.test.images);
  for (size_t i = 0; i < test.size(); ++i) EXPECT_EQ(test[i], found.test.labels[i] + 1);
  options_.split_seed = 1;
  EXPECT_NE(load().test.labels, found.test.labels);
}

TEST_F(ImageFolderTest, ClassesMustMatch) {
  put_two_classes();
  put("train/emu/1.png");
  expect_refused(at("test") + ": train and test must hold images of the same classes, got none of emu");
  put("test/emu/1.png");
  put("test/fox/1.png");
  expect_refused(at("train") + ": train and test must hold images of the same classes, got none of fox");
  put_file(folder_ / "train/fox/1.txt", "an empty class");
  expect_refused("got none of fox");
}

TEST_F(ImageFolderTest, EmptySetsAreRefused) {
  expect_refused("the folder must hold images in class folders (.jpg, .jpeg, .png), got 0 hidden and 0 other files");
  put_file(folder_ / "a/notes.txt", "text");
  put("lonely.png");
  expect_refused("got 0 hidden and 2 other files");
  put("a/1.png");
  expect_refused(at("a") + ": a class must hold two images, to train on and to test with, got one");
  put("train/a/1.png");
  expect_refused("the folder must hold train/CLASS and test/CLASS, or CLASS alone, got images of classes in train");
  expect_error(ExitCode::input, "none: the images must be a folder, got No such file", [&] {
    ProgressLine quiet(true);
    load_image_folder(folder_ / "none", options_, quiet);
  });
  put_file(folder_ / "file", "");
  expect_error(ExitCode::input, "the images must be a folder, got a file", [&] {
    ProgressLine quiet(true);
    load_image_folder(folder_ / "file", options_, quiet);
  });
}

TEST_F(ImageFolderTest, AnotherSizeIsNamedOrScaled) {
  put_two_classes();
  put("train/dog/2.png", 22, 8, 8);
  put("train/dog/3.png", 23, 9, 9);
  expect_refused(
      at("train/dog/2.png") +
      ": images must have one size, 3 x 4 as train/cat/1.png, or be scaled (size = [height, width]), got 8 x 8");
  options_.image.size = {2, 5};
  const ImageClasses found = load();
  EXPECT_EQ(found.train.images.shape(), (ImageShape{2, 5, 3}));
  EXPECT_THAT(values(found.train.images), ElementsAre(10, 11, 20, 22, 23));
  options_.image.memory_mib = 0;
  EXPECT_THAT(values(load().train.images), ElementsAre(10, 11, 20, 22, 23));
  options_.image.size = {2};
  expect_error(ExitCode::usage, "size: it must be empty or [height, width]", [&] { load(); });
}

TEST_F(ImageFolderTest, ADamagedFileIsNamedWhereverItsImageIsKept) {
  put_two_classes();
  const std::string whole = jpeg_bytes({.width = 4, .height = 3}, repeated("abc", 12));
  put_file(folder_ / "train/dog/0.jpg", whole.substr(0, whole.size() - 5));
  put_file(folder_ / "train/dog/00.jpg", "no image");
  expect_refused(at("train/dog/0.jpg") + ": the file must be a whole JPEG image, got Premature end of JPEG file");
  options_.image.memory_mib = 0;
  expect_refused(at("train/dog/00.jpg") + ": the file must be a JPEG or PNG image, got other first bytes");
  std::filesystem::remove(folder_ / "train/dog/00.jpg");
  const ImageClasses found = load();  // the header of 0.jpg is whole
  std::vector<uint8_t> pixels(36);
  expect_error(ExitCode::input, at("train/dog/0.jpg") + ": the file must be a whole JPEG image",
               [&] { found.train.images.read(2, pixels.data()); });
}

TEST_F(ImageFolderTest, TheOptionsReadBack) {
  options_ = {{ImageColor::grey, {3, 4}, 5, 6}, 0.25, 7};
  ImageFolderOptions again;
  Config::from_text(Config::write(options_)).read(again);
  EXPECT_EQ(Config::write(again), Config::write(options_));
}

TEST(ImageSetTest, ReadsWholeImagesByNumber) {
  const ImageSet images({1, 2, 1}, {1, 2, 3, 4});
  std::vector<uint8_t> pixels(2);
  images.read(1, pixels.data());
  EXPECT_THAT(pixels, ElementsAre(3, 4));
  expect_error(ExitCode::bug, "item must be in 0 .. 1, got 2", [&] { images.read(2, pixels.data()); });
  expect_error(ExitCode::bug, "pixels must be whole images of 2 bytes, got 3", [] { ImageSet({1, 2, 1}, {1, 2, 3}); });
}

}  // namespace
}  // namespace loci
