#include "loci/data/folder_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "loci/base/paths.h"

namespace loci {
namespace {

std::string in_lower_case(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

class FolderWalk {
 public:
  explicit FolderWalk(FolderFiles& found) : found_(found) {}

  void folder(const std::filesystem::path& path, const std::string& prefix) {
    struct stat status = {};
    if (stat(path.c_str(), &status) != 0 || !visited_.insert({status.st_dev, status.st_ino}).second) {
      found_.links.add(prefix);
      return;
    }
    for (const std::filesystem::path& entry : entries_of(path)) add(entry, prefix + entry.filename().string());
  }

 private:
  void add(const std::filesystem::path& path, const std::string& name) {
    if (path.filename().string().starts_with('.')) {
      found_.hidden.add(name);
      return;
    }
    std::error_code error;
    const std::filesystem::file_status status = std::filesystem::status(path, error);
    if (std::filesystem::is_directory(status)) {
      folder(path, name + "/");
    } else if (std::filesystem::is_regular_file(status)) {
      found_.files.push_back({path, name});
    } else {
      found_.links.add(name);
    }
  }

  FolderFiles& found_;
  std::set<std::pair<dev_t, ino_t>> visited_;
};

}  // namespace

FolderFiles folder_files(const std::filesystem::path& folder) {
  FolderFiles found;
  FolderWalk(found).folder(folder, "");
  std::ranges::sort(found.files, {}, &FolderFiles::File::name);
  return found;
}

bool has_extension(const std::filesystem::path& path, const std::vector<std::string>& extensions) {
  const std::string name = in_lower_case(path.filename().string());
  return extensions.empty() || std::any_of(extensions.begin(), extensions.end(), [&name](const std::string& extension) {
           const std::string dotted = in_lower_case(extension.starts_with('.') ? extension : '.' + extension);
           return name.ends_with(dotted);
         });
}

}  // namespace loci
