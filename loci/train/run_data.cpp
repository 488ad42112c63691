#include "loci/train/run_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/paths.h"
#include "loci/train/folder_lock.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRunDataFile = "data.json";

std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    std::error_code ignored;
    if (entry.is_directory(ignored)) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

RunData read_run_data(const fs::path& path) {
  const std::string text = read_text_file(path);
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    return {json.at("settings").get<std::string>(), json.at("key").get<std::string>(), json.at("facts")};
  } catch (const nlohmann::json::exception& error) {
    fail(ExitCode::input, path.string(), "the file must name a run's data", error.what());
  }
}

std::string first_change(const nlohmann::json& before, const nlohmann::json& now) {
  if (before.is_object() && now.is_object()) {
    for (const auto& [name, value] : now.items()) {
      const auto was = before.find(name);
      if (was != before.end() && *was != value)
        return fmt::format("{} {} instead of {}", name, value.dump(), was->dump());
    }
  }
  return "the same amount of other content";
}

}  // namespace

void record_run_data(const fs::path& out, const fs::path& run, const RunData& data,
                     const std::function<std::string(const std::string& key_before)>& changes) {
  const FolderLock lock(out);
  for (const fs::path& arm : folders_in(out)) {
    for (const fs::path& other : folders_in(arm)) {
      const fs::path file = other / kRunDataFile;
      if (!path_exists(file)) continue;
      const RunData before = read_run_data(file);
      if (before.settings != data.settings || before.key == data.key) continue;
      std::string change = changes(before.key);
      if (change.empty()) change = first_change(before.facts, data.facts);
      fail(ExitCode::input, run.string(),
           fmt::format("the data must be those that {} was trained on (or --out be a new folder)", other.string()),
           change);
    }
  }
  const nlohmann::json json = {{"settings", data.settings}, {"key", data.key}, {"facts", data.facts}};
  write_file_durably(run / kRunDataFile, json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace loci
