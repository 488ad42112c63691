#include "loci/data/image/idx_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include "loci/base/check.h"
#include "tests/image_files.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using ::testing::ElementsAre;

std::string idx_bytes(const std::vector<int64_t>& sides, const std::string& values) {
  std::string bytes("\0\0\x08", 3);
  bytes += static_cast<char>(sides.size());
  for (const int64_t side : sides) {
    for (const int shift : {24, 16, 8, 0}) bytes += static_cast<char>(side >> shift);
  }
  return bytes + values;
}

void put_gzip(const std::filesystem::path& path, const std::string& bytes) {
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(file);
}

class IdxFileTest : public testing::Test {
 protected:
  IdxFileTest() { options_.image.color = ImageColor::grey; }

  void expect_refused(const std::string& bytes, const std::string& part) {
    put_file(folder_ / "plain", bytes);
    expect_error(ExitCode::input, part, [&] { read_idx(folder_ / "plain"); });
    put_gzip(folder_ / "zipped.gz", bytes);
    expect_error(ExitCode::input, part, [&] { read_idx(folder_ / "zipped.gz"); });
  }
  ImageClasses load() {
    ProgressLine quiet(true);
    return load_image_folder(folder_.path(), options_, quiet);
  }
  void expect_folder_refused(const std::string& part) {
    expect_error(ExitCode::input, part, [&] { load(); });
  }
  // Two images of 1 x 2 to train on, gzip, and one to test with, plain.
  void put_digits() {
    put_gzip(folder_ / "train-images-idx3-ubyte.gz", idx_bytes({2, 1, 2}, "\x01\x02\x03\x04"));
    put_gzip(folder_ / "train-labels-idx1-ubyte.gz", idx_bytes({2}, std::string("\x02\0", 2)));
    put_file(folder_ / "t10k-images-idx3-ubyte", idx_bytes({1, 1, 2}, "\x05\x06"));
    put_file(folder_ / "t10k-labels-idx1-ubyte", idx_bytes({1}, "\x01"));
  }

  TemporaryFolder folder_;
  ImageFolderOptions options_;
};

TEST_F(IdxFileTest, ReadsPlainAndGzip) {
  const std::string bytes = idx_bytes({2, 3}, "abcdef");
  put_file(folder_ / "plain", bytes);
  put_gzip(folder_ / "zipped", bytes);
  for (const char* name : {"plain", "zipped"}) {
    const IdxFile file = read_idx(folder_ / name);
    EXPECT_THAT(file.sides, ElementsAre(2, 3));
    EXPECT_EQ(std::string(file.values.begin(), file.values.end()), "abcdef");
  }
}

TEST_F(IdxFileTest, TheHeaderIsStrict) {
  expect_refused("", "the idx file must hold a header, got its end");
  expect_refused(idx_bytes({2, 3}, "").substr(0, 9), "the idx file must hold a header, got its end");
  expect_refused(idx_bytes({2, 3}, "abcde"), "the idx file must hold 6 values, got its end");
  expect_refused(idx_bytes({2, 3}, "abcdefg"), "the idx file must end after its values, got more bytes");
  expect_refused(std::string("\0\0\x0D\x01\0\0\0\1\0\0\0\0", 12), "the file must be idx of unsigned bytes");
  expect_refused(std::string("\0\0\x08\x05", 4), "1 to 4 sides, got 00 00 08 05");
  expect_refused("GIF89a", "got 47 49 46 38");
}

TEST_F(IdxFileTest, SidesBeyondWhatTheFileCanHoldAreRefusedBeforehand) {
  expect_refused(idx_bytes({0xFFFFFFFF, 0xFFFFFFFF}, "a"), "the sides must be of at most");
  expect_refused(idx_bytes({0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, "a"), "the sides must be of at most");
  expect_refused(idx_bytes({100000}, "a"), "values, which the file can hold, got 100000");
}

TEST_F(IdxFileTest, ATruncatedGzipFileIsRefused) {
  put_gzip(folder_ / "whole", idx_bytes({50}, std::string(50, 'x')));
  const std::string whole = [&] {
    std::ifstream file(folder_ / "whole", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }();
  for (size_t size = 0; size < whole.size(); ++size) {
    put_file(folder_ / "cut", whole.substr(0, size));
    expect_error(ExitCode::input, (folder_ / "cut").string() + ": the", [&] { read_idx(folder_ / "cut"); });
  }
  std::string damaged = whole;
  damaged[damaged.size() - 6] ^= 1;  // the sum
  put_file(folder_ / "damaged", damaged);
  expect_error(ExitCode::input, "the file must be whole gzip data, got ", [&] { read_idx(folder_ / "damaged"); });
}

TEST_F(IdxFileTest, AFolderOfFourFilesIsClassesOfImages) {
  put_digits();
  const ImageClasses found = load();
  EXPECT_THAT(found.classes, ElementsAre("0", "1", "2"));
  EXPECT_EQ(found.train.images.shape(), (ImageShape{1, 2, 1}));
  EXPECT_THAT(found.train.labels, ElementsAre(2, 0));
  EXPECT_THAT(found.test.labels, ElementsAre(1));
  std::vector<uint8_t> pixels(2);
  found.train.images.read(1, pixels.data());
  EXPECT_THAT(pixels, ElementsAre(3, 4));
  EXPECT_EQ(found.inventory.files.size(), 4u);
  options_.image = {.color = ImageColor::rgb, .size = {1, 1}};
  const ImageClasses small = load();
  EXPECT_EQ(small.test.images.shape(), (ImageShape{1, 1, 3}));
  std::vector<uint8_t> rgb(3);
  small.test.images.read(0, rgb.data());
  EXPECT_THAT(rgb, ElementsAre(6, 6, 6));
  EXPECT_NE(small.inventory.key(), found.inventory.key());
  options_.image.size = {2};
  expect_error(ExitCode::usage, "size: it must be empty or [height, width]",
               [&] { load_idx_folder(folder_.path(), options_); });
}

TEST_F(IdxFileTest, FilesThatDoNotBelongTogetherAreNamed) {
  put_digits();
  put_file(folder_ / "t10k-labels-idx1-ubyte", idx_bytes({1}, "\x03"));
  expect_folder_refused("labels of the test must be below 3 as in train, got 3");
  put_file(folder_ / "t10k-labels-idx1-ubyte", idx_bytes({2}, "\x01\x01"));
  expect_folder_refused("t10k-labels-idx1-ubyte: there must be 1 labels, of 1 side, got 2 of 1");
  put_file(folder_ / "t10k-labels-idx1-ubyte", idx_bytes({1}, "\x01"));
  put_file(folder_ / "t10k-images-idx3-ubyte", idx_bytes({1, 2, 1}, "\x05\x06"));
  expect_folder_refused("test images must be 1 x 2 as those of train, got 2 x 1");
  put_file(folder_ / "t10k-images-idx3-ubyte", idx_bytes({2, 1}, "\x05\x06"));
  expect_folder_refused("t10k-images-idx3-ubyte: there must be images, of 3 sides, got 2 sides and 2 values");
  put_file(folder_ / "t10k-images-idx3-ubyte", idx_bytes({0, 1, 2}, ""));
  expect_folder_refused("there must be images, of 3 sides, got 3 sides and 0 values");
  std::filesystem::remove(folder_ / "t10k-images-idx3-ubyte");
  expect_folder_refused("t10k-images-idx3-ubyte.gz: the file must be readable, got No such file");
}

}  // namespace
}  // namespace loci
