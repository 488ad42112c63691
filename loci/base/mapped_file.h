// A file mapped read-only. Safe against a file that shrinks later only as far as the operating system is: map files
// that are complete.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace loci {

class MappedFile {
 public:
  // Throws Error (input) when the file is missing, unreadable or no regular file. An empty file gives an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace loci
