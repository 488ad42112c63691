#include "loci/base/durable_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
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
  expect_error(ExitCode::input, "full: the path must name a file, got a folder",
               [&] { write_file_durably(folder_ / "full", ""); });
  expect_error(ExitCode::usage, "missing/a: the file must be writable, got No such file",
               [&] { write_file_durably(folder_ / "missing" / "a", "", ExitCode::usage); });
  expect_error(ExitCode::input, "the path must be accessible, got File name too long",
               [&] { write_file_durably(folder_ / std::string(300, 'n'), ""); });
  expect_error(ExitCode::input, "must name a file", [&] { write_file_durably(folder_ / "", ""); });
  expect_error(ExitCode::input, "No such file", [&] { read_text_file(folder_ / "missing"); });
  expect_error(ExitCode::input, "Is a directory", [&] { read_text_file(folder_); });
  expect_error(ExitCode::input, "the file must be at most 268435456 bytes of text, got more",
               [&] { read_text_file("/dev/zero"); });
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
  expect_error(ExitCode::resources, "File too large",
               [&] { write_file_durably(folder_ / "a", std::string(1 << 16, 'x')); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_text_file(folder_ / "a"), "old");
  EXPECT_THAT(names(folder_), testing::ElementsAre("a"));
}

TEST_F(DurableFileTest, TakesTheLongestNameThatAFileMayHave) {
  const std::string name(255, 'n');
  write_file_durably(folder_ / name, "text");
  EXPECT_EQ(read_text_file(folder_ / name), "text");
}

TEST_F(DurableFileTest, WritesThroughLinksAndKeepsThem) {
  std::filesystem::create_directory(folder_ / "other");
  write_file_durably(folder_ / "other" / "target", "old");
  std::filesystem::create_symlink("other/target", folder_ / "link");
  std::filesystem::create_symlink("link", folder_ / "second");
  std::filesystem::create_symlink("other/new", folder_ / "broken");
  write_file_durably(folder_ / "second", "text");
  write_file_durably(folder_ / "broken", "more");
  EXPECT_EQ(read_text_file(folder_ / "other" / "target"), "text");
  EXPECT_EQ(read_text_file(folder_ / "other" / "new"), "more");
  EXPECT_EQ(std::filesystem::read_symlink(folder_ / "second"), "link");
  EXPECT_EQ(std::filesystem::read_symlink(folder_ / "broken"), "other/new");
  EXPECT_EQ(names(folder_ / "other").size(), 2U);
  std::filesystem::create_symlink("loop", folder_ / "loop");
  expect_error(ExitCode::usage, "Too many levels of symbolic links",
               [&] { write_file_durably(folder_ / "loop", "", ExitCode::usage); });
}

TEST_F(DurableFileTest, WritesIntoDevicesAndPipes) {
  write_file_durably("/dev/null", "text");
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  expect_error(ExitCode::resources, "/dev/full: the file must be writable, got No space left on device",
               [&] { write_file_durably("/dev/full", "text"); });

  const auto pipe = folder_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const int reader = open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  const std::string text(2 << 10, '\0');  // write_sparse has to write zeros there
  DurableFile file(pipe);
  file.write_sparse(std::as_bytes(std::span(text.data(), text.size())));
  file.commit();
  std::string got(text.size() + 1, 'x');
  EXPECT_EQ(::read(reader, got.data(), got.size()), static_cast<ssize_t>(text.size()));
  close(reader);
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  EXPECT_THAT(names(folder_), testing::ElementsAre("pipe"));
}

TEST_F(DurableFileTest, WritesToStandardOutputWhereThePathIsIt) {
  const auto path = folder_ / "out";
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  const int saved = dup(STDOUT_FILENO);
  fflush(stdout);
  dup2(file, STDOUT_FILENO);
  EXPECT_EQ(write(STDOUT_FILENO, "one\n", 4), 4);
  write_file_durably("/dev/stdout", "two\n");
  EXPECT_EQ(write(STDOUT_FILENO, "three\n", 6), 6);
  dup2(saved, STDOUT_FILENO);
  close(saved);
  close(file);
  EXPECT_EQ(read_text_file(path), "one\ntwo\nthree\n");
}

TEST_F(DurableFileTest, CopiesWithHoles) {
  std::string bytes(1 << 20, '\0');
  bytes[5] = 'x';
  write_file_durably(folder_ / "a", bytes);
  copy_file_durably(folder_ / "a", folder_ / "b");
  EXPECT_EQ(read_text_file(folder_ / "b"), bytes);
  struct stat status = {};
  ASSERT_EQ(stat((folder_ / "b").c_str(), &status), 0);
  EXPECT_LE(status.st_blocks * 512, 256 << 10);
  expect_error(ExitCode::resources, "No space left", [&] { copy_file_durably(folder_ / "a", "/dev/full"); });
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
