// The files in a folder and its subfolders.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "loci/data/file_inventory.h"

namespace loci {

struct FolderFiles {
  struct File {
    std::filesystem::path path;
    std::string name;  // relative to the folder, with '/'
  };
  std::vector<File> files;  // by name
  // What was left out:
  CountedNames hidden;  // names that start with a dot, folders too
  CountedNames links;   // links to nowhere, folders that were visited already, devices
};

// Follows links. Throws Error (input) for a folder that cannot be read.
FolderFiles folder_files(const std::filesystem::path& folder);

// Whether the name ends in one of the extensions, in upper or lower case, with or without their dot; any does when
// there are none.
bool has_extension(const std::filesystem::path& path, const std::vector<std::string>& extensions);

}  // namespace loci
