// Progress on standard error: one live line on a terminal, a plain line now and then otherwise.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace loci {

class ProgressLine {
 public:
  // `quiet` writes nothing. On a terminal the line is redrawn at most ten times a second; elsewhere a plain line is
  // written every `plain_seconds`. Lines are made printable().
  explicit ProgressLine(bool quiet = false, double plain_seconds = 10);
  ~ProgressLine();
  void show(const std::string& line);
  // Ends the live line, so that other text may follow; `line`, if any, stays on the screen.
  void finish(const std::string& line = "");

 private:
  bool quiet_;
  bool terminal_;
  double plain_seconds_;
  double last_ = -1e300;
  bool open_ = false;
};

double monotonic_seconds();                  // of a clock that only goes forward, for durations
std::string format_seconds(double seconds);  // "4 s", "3 min 20 s", "2 h 5 min"
std::string format_bytes(double bytes);      // "512 B", "1.5 MiB"
std::string format_count(double count);      // "17", "16.4 k", "1.1 M"
int64_t resident_bytes();                    // of this process now, from /proc/self/statm
int64_t peak_resident_bytes();               // the most so far, VmHWM of /proc/self/status
// Memory that this process may still take: the machine's (/proc/meminfo), or what its cgroup's limit leaves when that
// is less. `root` holds proc and sys.
int64_t available_bytes(const std::filesystem::path& root = "/");

}  // namespace loci
