#include "loci/base/paths.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr int kMostLinks = 40;  // the kernel's limit
constexpr std::string_view kFileReadable = "the file must be readable";

// stat(), or an Error; nothing when there is nothing.
bool look_at(const fs::path& path, struct stat& status, ExitCode fault) {
  if (stat(path.c_str(), &status) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR) fail_path(path, "the path must be accessible", errno, fault);
  return false;
}

}  // namespace

ExitCode exit_code_of(int error, ExitCode fault) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return ExitCode::resources;
    default:
      return fault;
  }
}

void fail_path(const fs::path& path, std::string_view expected, int error, ExitCode fault) {
  fail(exit_code_of(error, fault), path.string(), expected, std::generic_category().message(error));
}

PathKind kind_of(const fs::path& path, ExitCode fault) {
  struct stat status = {};
  if (!look_at(path, status, fault)) return PathKind::nothing;
  if (S_ISREG(status.st_mode)) return PathKind::file;
  return S_ISDIR(status.st_mode) ? PathKind::folder : PathKind::other;
}

bool path_exists(const fs::path& path, ExitCode fault) {
  return kind_of(path, fault) != PathKind::nothing;
}

int64_t file_bytes(const fs::path& path) {
  struct stat status = {};
  if (!look_at(path, status, ExitCode::input)) fail_path(path, kFileReadable, ENOENT);
  return status.st_size;
}

OpenedFile open_regular_file(const fs::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail_path(path, kFileReadable, errno);
  struct stat status = {};
  const int error = fstat(descriptor, &status) == 0 ? 0 : errno;
  if (error == 0 && S_ISREG(status.st_mode)) return {descriptor, status.st_size};
  close(descriptor);
  if (error != 0) fail_path(path, kFileReadable, error);
  fail(ExitCode::input, path.string(), "the path must be a regular file",
       S_ISDIR(status.st_mode) ? "a folder" : "a device, pipe or socket");
}

fs::path behind_links(const fs::path& path, ExitCode fault) {
  fs::path at = path;
  for (int links = 0; links <= kMostLinks; ++links) {
    std::error_code error;
    const fs::path target = fs::read_symlink(at, error);
    if (error) return at;  // no link, or nothing there
    at = target.is_absolute() ? target : at.parent_path() / target;
  }
  fail_path(path, "the path must be accessible", ELOOP, fault);
}

fs::path canonical_path(const fs::path& path) {
  std::error_code error;
  fs::path result = fs::canonical(path, error);
  if (error) fail_path(path, "the path must be accessible", error.value());
  return result;
}

fs::path temporary_folder() {
  std::error_code error;
  fs::path folder = fs::temp_directory_path(error);
  if (error) fail(ExitCode::usage, "TMPDIR", "it must be a folder", error.message());
  return folder;
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    entries.push_back(entry->path());
  }
  if (error) fail_path(folder, "the folder must be readable", error.value());
  std::sort(entries.begin(), entries.end());
  return entries;
}

void make_folders(const fs::path& folder, ExitCode fault) {
  constexpr std::string_view expected = "the folder must exist or be creatable";
  std::vector<fs::path> missing;
  for (fs::path at = folder; !at.empty() && !path_exists(at, fault); at = at.parent_path()) missing.push_back(at);
  for (auto at = missing.rbegin(); at != missing.rend(); ++at) {
    if (mkdir(at->c_str(), 0777) == 0) {
      sync_folder(at->has_parent_path() ? at->parent_path() : fs::path("."));
    } else if (errno != EEXIST) {
      fail_path(folder, expected, errno, fault);
    }
  }
  const PathKind kind = kind_of(folder, fault);
  if (kind != PathKind::folder) fail_path(folder, expected, kind == PathKind::nothing ? ENOENT : ENOTDIR, fault);
}

std::error_code remove_working_folder(const fs::path& folder) {
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const int descriptor = open(entry->path().c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) continue;
    struct stat status = {};
    if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 1 && status.st_size > 0) {
      (void)fallocate(descriptor, FALLOC_FL_ZERO_RANGE, 0, status.st_size);  // not every file system can
    }
    close(descriptor);
  }
  error.clear();
  fs::remove_all(folder, error);
  return error;
}

void sync_folder(const fs::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail_path(folder, "the folder must be readable", errno);
  int result = fsync(descriptor);
  while (result != 0 && errno == EINTR) result = fsync(descriptor);
  const int error = errno;
  close(descriptor);
  if (result != 0 && error != EINVAL)
    fail_path(folder, "the folder must reach the disk", error);  // EINVAL: cannot sync
}

}  // namespace loci
