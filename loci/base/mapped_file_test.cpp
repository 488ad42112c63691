#include "loci/base/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>

#include "loci/base/check.h"

namespace {
bool no_shared_mappings = false;
}

// Stands before the system's: a file system without shared mappings (FUSE with direct I/O) answers so.
extern "C" void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) noexcept {
  if (no_shared_mappings && (flags & MAP_SHARED) != 0 && file >= 0) {
    errno = ENODEV;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, size, protection, flags, file, offset));
}

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

TEST_F(MappedFileTest, NeedsNoSharedMappings) {
  const auto path = write("a", "hello");
  no_shared_mappings = true;
  EXPECT_EQ(text(MappedFile(path)), "hello");
  no_shared_mappings = false;
}

TEST_F(MappedFileTest, RefusesWhatIsNoRegularFile) {
  expect_refused(folder_ / "missing", "No such file");
  expect_refused(folder_, "a folder");
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  expect_refused(folder_ / "pipe", "a device, pipe or socket");
}

}  // namespace
}  // namespace loci
