// Which files a data folder held: to know whether it is the same data, and to say what changed when it is not.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace loci {

struct FileInventory {
  struct File {
    std::string name;  // relative to the folder
    uint64_t bytes = 0;
    std::string sum = {};  // checksum of the bytes
    bool operator==(const File&) const = default;
  };
  std::string settings;     // those that decide what is read and how it is split, as TOML
  std::vector<File> files;  // by name

  // "12 files, 3456 bytes, 0123...": equal for equal contents, names and settings alone. The last word is the checksum
  // of save().
  std::string key() const;
  std::string save() const;
  static std::optional<FileInventory> load(std::string_view saved);  // nothing when `saved` is of another form
};

// "1 file changed (a.txt); 2 files added (b.txt, c.txt)". Empty when nothing did.
std::string changes_between(const FileInventory& before, const FileInventory& now);

// How many, and the first three by name.
struct CountedNames {
  int64_t count = 0;
  std::vector<std::string> first;
  void add(const std::string& name);
  std::string text() const;  // "a, b, c", and " ..." when there are more
};

}  // namespace loci
