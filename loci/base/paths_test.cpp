#include "loci/base/paths.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <set>
#include <string>

#include "loci/base/durable_file.h"
#include "tests/temporary_folder.h"

namespace {
std::set<std::string> synced_folders;
}

// Stands before the system's: remembers what was synced.
extern "C" int fsync(int descriptor) {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor), error);
  if (!error) synced_folders.insert(path.string());
  return static_cast<int>(syscall(SYS_fsync, descriptor));
}

namespace loci {
namespace {

using testing::Contains;
using testing::ElementsAre;

// Paths that nothing can be read from or written to, with the reason. Root is refused nothing for its permissions.
std::vector<std::pair<std::filesystem::path, std::string>> bad_paths(const TemporaryFolder& folder) {
  std::filesystem::create_symlink("loop", folder / "loop");
  std::vector<std::pair<std::filesystem::path, std::string>> paths = {
      {folder / "loop", "Too many levels of symbolic links"},
      {folder / "loop" / "a", "Too many levels of symbolic links"},
      {folder / std::string(300, 'n'), "File name too long"},
      {folder.path() / std::string(300, 'n') / "a", "File name too long"}};
  if (geteuid() != 0) {
    std::filesystem::create_directory(folder / "closed");
    std::filesystem::permissions(folder / "closed", std::filesystem::perms::none);
    paths.emplace_back(folder / "closed" / "a", "Permission denied");
  }
  return paths;
}

TEST(Paths, KnowsWhatAPathLeadsTo) {
  const TemporaryFolder folder;
  std::ofstream(folder / "file") << "text";
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink("file", folder / "link");
  std::filesystem::create_symlink("nowhere", folder / "broken");
  EXPECT_EQ(kind_of(folder / "file"), PathKind::file);
  EXPECT_EQ(kind_of(folder / "link"), PathKind::file);
  EXPECT_EQ(kind_of(folder.path()), PathKind::folder);
  EXPECT_EQ(kind_of(folder / "pipe"), PathKind::other);
  EXPECT_EQ(kind_of("/dev/null"), PathKind::other);
  for (const char* name : {"none", "broken", "file/below"}) {
    EXPECT_EQ(kind_of(folder / name), PathKind::nothing) << name;
    EXPECT_FALSE(path_exists(folder / name)) << name;
  }
  EXPECT_EQ(file_bytes(folder / "link"), 4);
  EXPECT_EQ(behind_links(folder / "link"), folder / "file");
  EXPECT_EQ(behind_links(folder / "broken"), folder / "nowhere");
  EXPECT_EQ(behind_links(folder / "none"), folder / "none");
  EXPECT_EQ(canonical_path(folder / "./link").filename(), "file");
  expect_error(ExitCode::input, "none: the file must be readable, got No such file",
               [&] { file_bytes(folder / "none"); });
}

TEST(Paths, EveryQuestionAboutABadPathIsAnErrorInOneLine) {
  const TemporaryFolder folder;
  for (const auto& [path, reason] : bad_paths(folder)) {
    SCOPED_TRACE(path);
    for (const ExitCode fault : {ExitCode::input, ExitCode::usage}) {
      expect_error(fault, reason, [&] { kind_of(path, fault); });
      expect_error(fault, reason, [&] { path_exists(path, fault); });
      expect_error(fault, reason, [&] { make_folders(path, fault); });
    }
    expect_error(ExitCode::input, reason, [&] { file_bytes(path); });
    expect_error(ExitCode::input, reason, [&] { canonical_path(path); });
    expect_error(ExitCode::input, reason, [&] { entries_of(path); });
    expect_error(ExitCode::input, reason, [&] { sync_folder(path); });
  }
  expect_error(ExitCode::usage, "Too many levels", [&] { behind_links(folder / "loop", ExitCode::usage); });
}

TEST(Paths, ListsAFolderInOrder) {
  const TemporaryFolder folder;
  for (const char* name : {"b", "a", "c"}) std::ofstream(folder / name) << name;
  EXPECT_THAT(entries_of(folder.path()), ElementsAre(folder / "a", folder / "b", folder / "c"));
  expect_error(ExitCode::input, "a: the folder must be readable, got Not a directory",
               [&] { entries_of(folder / "a"); });
}

TEST(Paths, MakesFoldersAndSyncsTheirParents) {
  const TemporaryFolder folder;
  synced_folders.clear();
  make_folders(folder.path() / "a" / "b" / "c/");
  EXPECT_EQ(kind_of(folder.path() / "a" / "b" / "c"), PathKind::folder);
  for (const char* parent : {".", "a", "a/b"}) {
    EXPECT_THAT(synced_folders, Contains(std::filesystem::canonical(folder / parent).string()));
  }
  make_folders(folder / "a");
  std::ofstream(folder / "file") << "text";
  expect_error(ExitCode::usage, "file: the folder must exist or be creatable, got Not a directory",
               [&] { make_folders(folder / "file", ExitCode::usage); });
  expect_error(ExitCode::usage, "below: the folder must exist or be creatable, got Not a directory",
               [&] { make_folders(folder / "file/below", ExitCode::usage); });
  std::filesystem::create_symlink("nowhere", folder / "broken");
  expect_error(ExitCode::input, "broken: the folder must exist or be creatable",
               [&] { make_folders(folder / "broken"); });
}

TEST(Paths, LacksOfTheMachineAreNoFaultsOfThePath) {
  for (const int error : {ENOSPC, EDQUOT, EFBIG, ENOMEM, EMFILE, ENFILE}) {
    EXPECT_EQ(exit_code_of(error, ExitCode::usage), ExitCode::resources);
  }
  EXPECT_EQ(exit_code_of(ENOENT, ExitCode::usage), ExitCode::usage);
  expect_error(ExitCode::resources, "out: the file must be writable, got No space left on device",
               [] { fail_path("out", "the file must be writable", ENOSPC); });
}

TEST(Paths, AWorkingFolderGoesWithItsFilesAndOnlyThose) {
  const TemporaryFolder folder;
  EXPECT_FALSE(remove_working_folder(folder / "none"));
  std::filesystem::create_directories(folder / "work/below");
  for (const char* name : {"work/table", "work/below/linked", "outside"}) std::ofstream(folder / name) << "bytes";
  std::filesystem::create_hard_link(folder / "work/below/linked", folder / "second");
  std::filesystem::create_symlink("../outside", folder / "work/link");
  ASSERT_EQ(mkfifo((folder / "work/pipe").c_str(), 0600), 0);
  const int table = open((folder / "work/table").c_str(), O_RDONLY | O_CLOEXEC);
  EXPECT_FALSE(remove_working_folder(folder / "work"));
  EXPECT_FALSE(path_exists(folder / "work"));
  std::string byte = " ";
  EXPECT_EQ(pread(table, byte.data(), 1, 0), 1);
  close(table);
  struct statfs system = {};
  ASSERT_EQ(statfs(folder.path().c_str(), &system), 0);
  if (system.f_type == EXT4_SUPER_MAGIC) {
    EXPECT_EQ(byte, std::string(1, '\0'));  // zeroed, so in one piece
  }
  for (const char* name : {"second", "outside"}) EXPECT_EQ(read_text_file(folder / name), "bytes") << name;
}

}  // namespace
}  // namespace loci
