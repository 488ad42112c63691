// The folder of one run: config.toml (resolved), metrics.jsonl, step-N/ checkpoints, `latest` with the name of the
// newest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

#include "loci/train/checkpoint_folder.h"
#include "loci/train/metrics_log.h"

namespace loci {

class RunDirectory {
 public:
  // Makes the folder, or opens one that was begun with the same configuration and clears what a killed process left.
  // Throws Error (usage) for a run of another configuration (naming the first key that differs), for a folder of other
  // things, and when another process is training in it. When an exception ends the run before its first log line or
  // checkpoint, the folder goes again, with the folders above it that were made for it.
  RunDirectory(std::filesystem::path path, std::string_view config);
  // The folder of a run that another process keeps: nothing is made, locked or removed, and metrics() keeps no line.
  explicit RunDirectory(std::filesystem::path path);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // The newest step-N folder, unchecked; open_latest() finds the newest that is whole.
  std::optional<std::filesystem::path> latest() const { return newest_step_folder(path_); }
  // The log of the run as it stands at `step`.
  MetricsLog metrics(int64_t step) const;

 private:
  void lock();
  void take_config(std::string_view config);
  void remove_unbegun() const;

  std::filesystem::path path_;
  std::filesystem::path made_;  // the uppermost folder that did not exist before; or empty
  int exceptions_;              // under way when it was made
  int descriptor_ = -1;         // of the folder, locked; -1: another process keeps the run
};

}  // namespace loci
