// Files that are either complete or absent: written next to the target, fsynced, renamed, the folder fsynced.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "loci/base/check.h"

namespace loci {

// Writes a temporary file next to `path`; commit() makes it `path`. Without commit() the destructor removes it. A link
// stays: its target is written. What is no regular file (a device, a pipe, /dev/stdout) is written into, as it is.
// Every failure throws Error that names the path and the reason: resources for a full disk, `fault` where the path
// cannot be written (usage for what a user names with --out), input otherwise.
class DurableFile {
 public:
  explicit DurableFile(std::filesystem::path path, ExitCode fault = ExitCode::input);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  // The same bytes for a reader, but long runs of zeros are left out as holes.
  void write_sparse(std::span<const std::byte> bytes);
  void commit();

 private:
  void open_temporary(ExitCode fault);

  std::filesystem::path path_;       // as it was given, for messages
  std::filesystem::path target_;     // behind links
  std::filesystem::path temporary_;  // empty: what is at the path is written into
  int descriptor_ = -1;
  int64_t size_ = 0;
};

void write_file_durably(const std::filesystem::path& path, std::string_view text, ExitCode fault = ExitCode::input);
// Copies through a mapping, with holes for long runs of zeros.
void copy_file_durably(const std::filesystem::path& from, const std::filesystem::path& to);
// The whole file as text, of at most 256 MiB (a device may never end). Throws Error (input).
std::string read_text_file(const std::filesystem::path& path);

}  // namespace loci
