// Files that are either complete or absent: written beside the target, fsynced, renamed, the folder fsynced.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

namespace loci {

// Writes a temporary file beside `path`; commit() makes it `path`. Without commit() the destructor removes it. Every
// failure throws Error (resources for a full disk, input otherwise) that names the path and the reason.
class DurableFile {
 public:
  explicit DurableFile(std::filesystem::path path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  // The same bytes for a reader, but long runs of zeros are left out as holes.
  void write_sparse(std::span<const std::byte> bytes);
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

void write_file_durably(const std::filesystem::path& path, std::string_view text);
// The whole file as text. Throws Error (input).
std::string read_text_file(const std::filesystem::path& path);
void sync_folder(const std::filesystem::path& folder);
// Makes the folder and those above it that are missing, each synced into its parent. The error is that of the system.
std::error_code create_folders_durably(const std::filesystem::path& folder);

}  // namespace loci
