#include "loci/base/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "loci/base/check.h"

namespace loci {
namespace {

class MappedFileTest : public testing::Test {
 protected:
  MappedFileTest() : folder_(testing::TempDir() + "loci_mapped_" + std::to_string(getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~MappedFileTest() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  static std::string text(const MappedFile& file) {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  }
  void expect_refused(const std::filesystem::path& path, const std::string& reason) {
    try {
      MappedFile file(path);
      FAIL() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::input);
      EXPECT_THAT(error.what(), testing::HasSubstr(path.string()));
      EXPECT_THAT(error.what(), testing::HasSubstr(reason));
    }
  }

  std::filesystem::path folder_;
};

TEST_F(MappedFileTest, ShowsTheBytesAlsoAfterAMoveAndAfterTheFileIsRemoved) {
  const auto path = write("a", "hello");
  MappedFile first(path);
  std::filesystem::remove(path);
  MappedFile second(std::move(first));
  EXPECT_EQ(text(second), "hello");
  EXPECT_TRUE(first.bytes().empty());  // NOLINT(bugprone-use-after-move)
  MappedFile third(write("b", "other"));
  third = std::move(second);
  EXPECT_EQ(text(third), "hello");
}

TEST_F(MappedFileTest, GivesAnEmptySpanForAnEmptyFile) {
  EXPECT_TRUE(MappedFile(write("a", "")).bytes().empty());
}

TEST_F(MappedFileTest, RefusesWhatIsNoRegularFile) {
  expect_refused(folder_ / "missing", "No such file");
  expect_refused(folder_, "a folder");
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  expect_refused(folder_ / "pipe", "a device, pipe or socket");
}

}  // namespace
}  // namespace loci
