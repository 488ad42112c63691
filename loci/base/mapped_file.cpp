#include "loci/base/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "loci/base/paths.h"

namespace loci {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const OpenedFile file = open_regular_file(path);
  const auto size = static_cast<size_t>(file.bytes);
  void* data = nullptr;
  // Private: some file systems (FUSE with direct I/O) have no shared mappings. Pages that are only read are shared
  // anyway.
  if (size > 0) data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.descriptor, 0);
  const int error = errno;
  close(file.descriptor);
  if (data == MAP_FAILED) fail_path(path, "the file must be readable", error);
  data_ = static_cast<const std::byte*>(data);
  size_ = size;
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
