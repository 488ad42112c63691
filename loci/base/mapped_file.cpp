#include "loci/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/paths.h"

namespace loci {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const auto refuse = [&path](int error) { fail_path(path, "the file must be readable", error); };
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not block us
  if (descriptor < 0) refuse(errno);
  struct stat status = {};
  const bool known = fstat(descriptor, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    const int error = errno;
    close(descriptor);
    if (!known) refuse(error);
    fail(ExitCode::input, path.string(), "the path must be a regular file",
         S_ISDIR(status.st_mode) ? "a folder" : "a device, pipe or socket");
  }
  void* data = nullptr;
  // Private: some file systems (FUSE with direct I/O) have no shared mappings. Pages that are only read are shared
  // anyway.
  if (status.st_size > 0) data = mmap(nullptr, status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  const int error = errno;
  close(descriptor);
  if (data == MAP_FAILED) refuse(error);
  data_ = static_cast<const std::byte*>(data);
  size_ = static_cast<size_t>(status.st_size);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace loci
