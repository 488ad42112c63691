// A folder for prepared data that can be made again. Nothing depends on it: where it is full, read-only or broken, the
// work goes on without it, and one notice says so.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/mapped_file.h"

namespace loci {

class CacheFolder {
 public:
  using Sink = std::function<void(std::span<const std::byte>)>;

  // Makes the folder, and removes what killed processes left half-written in it.
  explicit CacheFolder(std::filesystem::path folder);

  std::filesystem::path path(std::string_view name) const { return folder_ / name; }
  // The file as it is; nothing when there is none or it cannot be read.
  std::optional<MappedFile> find(std::string_view name) const;
  // Makes the file durably of what `write` gives to the sink. False when that fails, now or before: nothing is left
  // then, and notices() has the reason. What `write` itself throws passes through.
  bool store(std::string_view name, const std::function<void(const Sink&)>& write);

  const std::vector<std::string>& notices() const { return notices_; }

 private:
  void give_up(std::string_view reason);

  std::filesystem::path folder_;
  bool writable_ = true;
  std::vector<std::string> notices_;
};

}  // namespace loci
