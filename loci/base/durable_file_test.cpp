#include "loci/base/durable_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>

#include "loci/base/check.h"

namespace loci {
namespace {

class DurableFileTest : public testing::Test {
 protected:
  DurableFileTest() : folder_(testing::TempDir() + "loci_durable_" + std::to_string(getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~DurableFileTest() override { std::filesystem::remove_all(folder_); }

  std::vector<std::string> names(const std::filesystem::path& folder) {
    std::vector<std::string> result;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) result.push_back(entry.path().filename());
    return result;
  }
  static void expect_error(ExitCode code, const std::string& part, const std::function<void()>& action) {
    try {
      action();
      FAIL() << "no error with " << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_THAT(error.what(), testing::HasSubstr(part));
    }
  }

  std::filesystem::path folder_;
};

TEST_F(DurableFileTest, AppearsWholeAtCommitAndReplacesTheOldFile) {
  const auto path = folder_ / "a.json";
  write_file_durably(path, "old");
  DurableFile file(path);
  file.write("new ");
  file.write(std::string(1 << 20, 'x'));
  EXPECT_EQ(read_text_file(path), "old");
  file.commit();
  EXPECT_EQ(read_text_file(path), "new " + std::string(1 << 20, 'x'));
  EXPECT_THAT(names(folder_), testing::ElementsAre("a.json"));
}

TEST_F(DurableFileTest, SparseWritesGiveTheSameBytesAndHolesForRunsOfZeros) {
  std::string bytes(4 << 20, '\0');
  for (const size_t at : {5000, 70000, 70001, 300000}) bytes[at] = 'x';
  for (const size_t first : {size_t{0}, size_t{1}, size_t{4095}, size_t{4096}, size_t{5001}}) {
    for (const size_t last : {size_t{0}, size_t{1}, size_t{4096}, size_t{5000}}) {
      DurableFile file(folder_ / "a");
      file.write(std::string_view(bytes).substr(0, first));
      const std::string_view middle = std::string_view(bytes).substr(first, bytes.size() - first - last);
      file.write_sparse(std::as_bytes(std::span(middle.data(), middle.size())));
      file.write(std::string_view(bytes).substr(bytes.size() - last));
      file.commit();
      ASSERT_EQ(read_text_file(folder_ / "a"), bytes) << first << " " << last;
    }
  }
  struct stat status = {};
  ASSERT_EQ(stat((folder_ / "a").c_str(), &status), 0);
  EXPECT_LT(status.st_blocks * 512, 5 << 18);
}

TEST_F(DurableFileTest, LeavesNothingWithoutCommit) {
  {
    DurableFile(folder_ / "a").write("half");
  }
  EXPECT_THAT(names(folder_), testing::IsEmpty());
}

TEST_F(DurableFileTest, TakesARelativeNameInTheWorkingFolder) {
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder_);
  write_file_durably("a", "text");
  std::filesystem::current_path(before);
  EXPECT_EQ(read_text_file(folder_ / "a"), "text");
}

TEST_F(DurableFileTest, NamesThePathAndTheReasonOfAFailure) {
  expect_error(ExitCode::input, "missing/a: the file must be writable, got No such file",
               [&] { write_file_durably(folder_ / "missing" / "a", ""); });
  std::filesystem::create_directory(folder_ / "full");
  write_file_durably(folder_ / "full" / "b", "");
  expect_error(ExitCode::input, "full: the file must be replaceable",
               [&] { write_file_durably(folder_ / "full", ""); });
  expect_error(ExitCode::input, "must name a file", [&] { write_file_durably(folder_ / "", ""); });
  expect_error(ExitCode::input, "No such file", [&] { read_text_file(folder_ / "missing"); });
  expect_error(ExitCode::input, "Is a directory", [&] { read_text_file(folder_); });
  EXPECT_THAT(names(folder_), testing::ElementsAre("full"));
}

TEST_F(DurableFileTest, RefusesUseAfterCommit) {
  DurableFile file(folder_ / "a");
  file.commit();
  expect_error(ExitCode::bug, "got a closed one", [&] { file.write("x"); });
  expect_error(ExitCode::bug, "got a closed one", [&] { file.commit(); });
}

TEST_F(DurableFileTest, KeepsTheOldFileWhenAWriteFailsHalfway) {
  write_file_durably(folder_ / "a", "old");
  rlimit limit = {};
  getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit before = limit;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  limit.rlim_cur = 4096;
  setrlimit(RLIMIT_FSIZE, &limit);
  expect_error(ExitCode::input, "File too large",
               [&] { write_file_durably(folder_ / "a", std::string(1 << 16, 'x')); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_text_file(folder_ / "a"), "old");
  EXPECT_THAT(names(folder_), testing::ElementsAre("a"));
}

TEST_F(DurableFileTest, CallsAFullDiskALackOfResources) {
  const auto disk = folder_ / "disk";
  std::filesystem::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=64k") != 0) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  write_file_durably(disk / "a", "old");
  expect_error(ExitCode::resources, "No space left",
               [&] { write_file_durably(disk / "a", std::string(1 << 20, 'x')); });
  EXPECT_EQ(read_text_file(disk / "a"), "old");
  EXPECT_THAT(names(disk), testing::ElementsAre("a"));
  umount(disk.c_str());
}

}  // namespace
}  // namespace loci
