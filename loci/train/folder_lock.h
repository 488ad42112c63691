// An exclusive lock of a folder against other processes. The kernel drops it with the process, however that ends.
#pragma once

#include <filesystem>

namespace loci {

class FolderLock {
 public:
  // Waits until the folder is free. A file system without locks goes without. Throws Error (input) for a folder that
  // cannot be opened.
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace loci
