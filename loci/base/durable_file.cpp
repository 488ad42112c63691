#include "loci/base/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "loci/base/mapped_file.h"
#include "loci/base/paths.h"

namespace loci {
namespace {

// Smaller holes would cut a file into so many pieces that some file systems take minutes to remove it: ext4 without a
// journal, mounted with `discard`, took over 1 ms a piece.
constexpr size_t kHole = size_t{256} << 10;

constexpr size_t kMostText = size_t{256} << 20;
constexpr size_t kMostName = 200;  // of the 255 bytes that a name may have: the temporary one is longer
constexpr std::string_view kWritable = "the file must be writable";
constexpr std::string_view kReadable = "the file must be readable";
constexpr std::string_view kReachesDisk = "the file must reach the disk";

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

struct Closer {
  int descriptor;
  ~Closer() { close(descriptor); }
};

// /dev/stdout and its like: a second descriptor of what standard output or error is, or -1. A file there would be
// replaced by name while the process still writes to the old one.
int standard_descriptor(const std::filesystem::path& path) {
  struct stat wanted = {};
  if (stat(path.c_str(), &wanted) != 0) return -1;
  for (const int descriptor : {STDOUT_FILENO, STDERR_FILENO}) {
    struct stat status = {};
    if (fstat(descriptor, &status) == 0 && status.st_dev == wanted.st_dev && status.st_ino == wanted.st_ino) {
      return fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    }
  }
  return -1;
}

}  // namespace

DurableFile::DurableFile(std::filesystem::path path, ExitCode fault) : path_(std::move(path)) {
  if (!path_.has_filename()) fail(fault, "DurableFile", "the path must name a file", path_.string());
  const PathKind kind = kind_of(path_, fault);
  if (kind == PathKind::folder) fail(fault, path_.string(), "the path must name a file", "a folder");
  descriptor_ = standard_descriptor(path_);
  if (descriptor_ >= 0) return;
  if (kind == PathKind::other) {
    descriptor_ = open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (descriptor_ < 0) fail_path(path_, kWritable, errno, fault);
  } else {
    open_temporary(fault);
  }
}

void DurableFile::open_temporary(ExitCode fault) {
  target_ = behind_links(path_, fault);
  const std::string name = target_.filename().string().substr(0, kMostName);
  temporary_ = folder_of(target_) / fmt::format(".{}.tmp-{}", name, getpid());
  descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor_ < 0) fail_path(path_, kWritable, errno, fault);
}

DurableFile::~DurableFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void DurableFile::write(std::span<const std::byte> bytes) {
  if (descriptor_ < 0) fail(ExitCode::bug, path_.string(), "the file must be open for writing", "a closed one");
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) fail_path(path_, kWritable, errno);
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
  if (temporary_.empty()) return write(bytes);
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
        fail_path(path_, kWritable, errno);
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
  if (!temporary_.empty()) {
    if (ftruncate(descriptor_, size_) != 0) fail_path(path_, kWritable, errno);
    while (fsync(descriptor_) != 0) {
      if (errno != EINTR) fail_path(path_, kReachesDisk, errno);
    }
  }
  if (close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) fail_path(path_, kReachesDisk, errno);
  if (temporary_.empty()) return;
  if (rename(temporary_.c_str(), target_.c_str()) != 0) fail_path(path_, "the file must be replaceable", errno);
  temporary_.clear();
  sync_folder(folder_of(target_));
}

void write_file_durably(const std::filesystem::path& path, std::string_view text, ExitCode fault) {
  DurableFile file(path, fault);
  file.write(text);
  file.commit();
}

void copy_file_durably(const std::filesystem::path& from, const std::filesystem::path& to) {
  const MappedFile source(from);
  DurableFile file(to);
  file.write_sparse(source.bytes());
  file.commit();
}

std::string read_text_file(const std::filesystem::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_path(path, kReadable, errno);
  const Closer closer{descriptor};
  std::string text;
  std::array<char, 1 << 16> buffer;
  for (;;) {
    const ssize_t count = ::read(descriptor, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_path(path, kReadable, errno);
    if (count == 0) return text;
    if (text.size() + static_cast<size_t>(count) > kMostText) {
      fail(ExitCode::input, path.string(), fmt::format("the file must be at most {} bytes of text", kMostText), "more");
    }
    text.append(buffer.data(), static_cast<size_t>(count));
  }
}

}  // namespace loci
