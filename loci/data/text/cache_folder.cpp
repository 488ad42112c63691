#include "loci/data/text/cache_folder.h"

#include <chrono>
#include <system_error>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

// Thrown when the cache file fails, so that it is told from what fails while its content is made.
struct CacheFileFailed {
  std::string reason;
};

template <class Action>
auto cache_file_action(Action action) {
  try {
    return action();
  } catch (const Error& error) {
    throw CacheFileFailed{error.what()};
  }
}

// A file that is being written is younger than this at any moment.
constexpr auto kLeftBehind = std::chrono::hours(1);

void remove_left_behind(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with('.') || name.find(".tmp-") == std::string::npos) continue;
    std::error_code ignored;
    const auto written = fs::last_write_time(entry->path(), ignored);
    if (!ignored && fs::file_time_type::clock::now() - written > kLeftBehind) fs::remove(entry->path(), ignored);
  }
}

}  // namespace

CacheFolder::CacheFolder(fs::path folder) : folder_(std::move(folder)) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error || !fs::is_directory(folder_, error)) {
    give_up(fmt::format("{}: the folder must be creatable, got {}", folder_.string(),
                        error ? error.message() : "something else of this name"));
    return;
  }
  remove_left_behind(folder_);
}

std::optional<MappedFile> CacheFolder::find(std::string_view name) const {
  std::error_code error;
  if (!fs::is_regular_file(path(name), error)) return std::nullopt;
  try {
    return MappedFile(path(name));
  } catch (const Error&) {
    return std::nullopt;
  }
}

bool CacheFolder::store(std::string_view name, const std::function<void(const Sink&)>& write) {
  if (!writable_) return false;
  try {
    std::optional<DurableFile> file;
    cache_file_action([&] { file.emplace(path(name)); });
    write([&](std::span<const std::byte> bytes) { cache_file_action([&] { file->write(bytes); }); });
    cache_file_action([&] { file->commit(); });
    return true;
  } catch (const CacheFileFailed& failed) {
    give_up(failed.reason);
    return false;
  }
}

void CacheFolder::give_up(std::string_view reason) {
  writable_ = false;
  notices_.push_back(fmt::format("without a cache, the text will be prepared anew next time ({})", reason));
}

}  // namespace loci
