// A regular file that is read by position and not mapped: one that shrinks meanwhile gives a message instead of a
// signal, and file systems without mappings serve as well.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace loci {

class InputFile {
 public:
  // Throws Error (input) when the file is missing, unreadable or no regular file.
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  uint64_t size() const { return size_; }  // when it was opened
  // The bytes begin .. begin+count-1. Throws Error (input) when the file has fewer.
  std::string read(uint64_t begin, uint64_t count) const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

}  // namespace loci
