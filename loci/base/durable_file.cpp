#include "loci/base/durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "loci/base/check.h"

namespace loci {
namespace {

// Smaller holes would cut a file into so many pieces that some file systems take minutes to remove it: ext4 without a
// journal, mounted with `discard`, took over 1 ms a piece.
constexpr size_t kHole = size_t{256} << 10;

[[noreturn]] void refuse(const std::filesystem::path& path, std::string_view expected, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  fail(full ? ExitCode::resources : ExitCode::input, path.string(), expected, std::generic_category().message(error));
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

DurableFile::DurableFile(std::filesystem::path path) : path_(std::move(path)) {
  if (!path_.has_filename()) fail(ExitCode::input, "DurableFile", "the path must name a file", path_.string());
  temporary_ = folder_of(path_) / fmt::format(".{}.tmp-{}", path_.filename().string(), getpid());
  descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor_ < 0) refuse(path_, "the file must be writable", errno);
}

DurableFile::~DurableFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void DurableFile::write(std::span<const std::byte> bytes) {
  if (descriptor_ < 0) fail(ExitCode::bug, path_.string(), "the file must be open for writing", "a closed one");
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) refuse(path_, "the file must be writable", errno);
    if (written <= 0) continue;
    bytes = bytes.subspan(static_cast<size_t>(written));
    size_ += written;
  }
}

void DurableFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text.data(), text.size())));
}

// Runs of blocks that hold something are written, runs of zeros are stepped over; commit() gives the file its length.
void DurableFile::write_sparse(std::span<const std::byte> bytes) {
  const auto zero = [&](size_t begin, size_t count) {
    const std::byte* block = bytes.data() + begin;
    return count == kHole && *block == std::byte{0} && std::memcmp(block, block + 1, kHole - 1) == 0;
  };
  size_t begin = 0;
  while (begin < bytes.size()) {
    // Blocks of the file, so that a hole is whole pages.
    const auto next = [&](size_t at) {
      return std::min(bytes.size() - at, kHole - (static_cast<size_t>(size_) + at - begin) % kHole);
    };
    size_t end = begin;
    while (end < bytes.size() && zero(end, next(end))) end += kHole;
    if (end > begin) {
      if (lseek(descriptor_, static_cast<off_t>(end - begin), SEEK_CUR) < 0) {
        refuse(path_, "the file must be writable", errno);
      }
      size_ += static_cast<int64_t>(end - begin);
      begin = end;
      continue;
    }
    while (end < bytes.size() && !zero(end, next(end))) end += next(end);
    write(bytes.subspan(begin, end - begin));
    begin = end;
  }
}

void DurableFile::commit() {
  if (descriptor_ < 0) fail(ExitCode::bug, path_.string(), "the file must be open for writing", "a closed one");
  if (ftruncate(descriptor_, size_) != 0) refuse(path_, "the file must be writable", errno);
  while (fsync(descriptor_) != 0) {
    if (errno != EINTR) refuse(path_, "the file must reach the disk", errno);
  }
  if (close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) {
    refuse(path_, "the file must reach the disk", errno);
  }
  if (rename(temporary_.c_str(), path_.c_str()) != 0) refuse(path_, "the file must be replaceable", errno);
  temporary_.clear();
  sync_folder(folder_of(path_));
}

void write_file_durably(const std::filesystem::path& path, std::string_view text) {
  DurableFile file(path);
  file.write(text);
  file.commit();
}

std::string read_text_file(const std::filesystem::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) refuse(path, "the file must be readable", errno);
  std::string text;
  std::array<char, 1 << 16> buffer;
  for (;;) {
    const ssize_t count = ::read(descriptor, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int error = errno;
      close(descriptor);
      refuse(path, "the file must be readable", error);
    }
    if (count == 0) break;
    text.append(buffer.data(), static_cast<size_t>(count));
  }
  close(descriptor);
  return text;
}

std::error_code create_folders_durably(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> missing;
  for (auto path = std::filesystem::absolute(folder, error); !error && !std::filesystem::exists(path, error);) {
    if (!path.filename().empty()) missing.push_back(path);
    path = path.parent_path();
  }
  for (auto path = missing.rbegin(); !error && path != missing.rend(); ++path) {
    std::filesystem::create_directory(*path, error);
    if (!error) sync_folder(path->parent_path());
  }
  return error;
}

void sync_folder(const std::filesystem::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) refuse(folder, "the folder must be readable", errno);
  int result = fsync(descriptor);
  while (result != 0 && errno == EINTR) result = fsync(descriptor);
  const int error = errno;
  close(descriptor);
  if (result != 0 && error != EINVAL) refuse(folder, "the folder must reach the disk", error);  // EINVAL: cannot sync
}

}  // namespace loci
