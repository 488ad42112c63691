// metrics.jsonl of a run: one JSON object a line, only ever appended to.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace loci {

class MetricsLog {
 public:
  // Opens the log of a run that stands at `step`: lines of later steps, which a killed process wrote after its last
  // checkpoint, and lines that are no JSON object (torn) are dropped first.
  MetricsLog(std::filesystem::path path, int64_t step);
  MetricsLog() = default;  // keeps no line
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  // Appends one line; NaN and infinity become null. A full disk throws Error (resources) and leaves no half line.
  void write(const nlohmann::json& line);
  // Waits until the lines are on the disk, so that none is missing before a checkpoint that is. Throws Error as
  // write().
  void sync();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace loci
