#include "loci/base/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr double kRedrawSeconds = 0.1;

size_t terminal_width() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// The line's beginning that fits, by code points; the last column stays free, or the terminal would wrap.
std::string fitted(const std::string& line) {
  const size_t width = terminal_width() - 1;
  std::string result;
  size_t columns = 0;
  for (char c : printable(line)) {
    const bool continues = (c & 0xC0) == 0x80;
    if (!continues && ++columns > width) break;
    result += c;
  }
  return result;
}

// False when standard error is closed or broken: progress is then nobody's loss.
bool put(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EAGAIN) return true;
    if (written < 0 && errno != EINTR) return false;
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// The number after `key` in a file of "key value" lines, or -1.
int64_t number_in(const std::filesystem::path& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    int64_t value = -1;
    return std::istringstream(line.substr(key.size())) >> value ? value : -1;
  }
  return -1;
}

// What the limits of one cgroup and of those above it leave; page cache that can be dropped counts as free.
int64_t cgroup_rest(std::filesystem::path folder, std::filesystem::path group, const char* limit_name,
                    const char* use_name, std::string_view cache_key) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (group = group.relative_path();; group = group.parent_path()) {
    const auto here = folder / group;
    const int64_t limit = number_in(here / limit_name, "");
    const int64_t use = number_in(here / use_name, "");
    if (limit >= 0 && use >= 0) {
      const int64_t cache = std::max<int64_t>(0, number_in(here / "memory.stat", cache_key));
      least = std::min(least, std::max<int64_t>(0, limit - std::max<int64_t>(0, use - cache)));
    }
    if (group.empty()) return least;
  }
}

}  // namespace

ProgressLine::ProgressLine(bool quiet, double plain_seconds)
    : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1), plain_seconds_(plain_seconds) {
  const char* kind = std::getenv("TERM");
  if (kind != nullptr && std::string_view(kind) == "dumb") terminal_ = false;
}

ProgressLine::~ProgressLine() {
  finish();
}

void ProgressLine::show(const std::string& line) {
  const double time = monotonic_seconds();
  if (quiet_ || time - last_ < (terminal_ ? kRedrawSeconds : plain_seconds_)) return;
  last_ = time;
  open_ = terminal_;
  if (!put(terminal_ ? "\r" + fitted(line) + "\x1b[K" : printable(line) + "\n")) quiet_ = true;
}

void ProgressLine::finish(const std::string& line) {
  if (quiet_) return;
  std::string text = open_ ? "\r\x1b[K" : "";
  open_ = false;
  if (!line.empty()) text += printable(line) + "\n";
  if (!put(text)) quiet_ = true;
}

double monotonic_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string format_seconds(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 0.95) return fmt::format("{:.1f} s", seconds);
  if (seconds >= 1e15) return "?";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
  return fmt::format("{} d {} h", whole / 86400, whole % 86400 / 3600);
}

namespace {

std::string scaled(double value, double step, std::initializer_list<const char*> units, const char* plain) {
  if (std::isnan(value)) return "?";
  if (std::abs(value) < step - 0.5) return fmt::format("{:.0f}{}", value, plain);
  const char* unit = "";
  for (const char* next : units) {
    unit = next;
    value /= step;
    if (std::abs(value) < step - 0.05) break;
  }
  return fmt::format("{:.1f} {}", value, unit);
}

}  // namespace

std::string format_bytes(double bytes) {
  return scaled(bytes, 1024, {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}, " B");
}

std::string format_count(double count) {
  return scaled(count, 1000, {"k", "M", "G", "T", "P"}, "");
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

int64_t peak_resident_bytes() {
  return std::max<int64_t>(0, number_in("/proc/self/status", "VmHWM:")) * 1024;
}

int64_t available_bytes(const std::filesystem::path& root) {
  int64_t least = std::numeric_limits<int64_t>::max();
  const int64_t machine = number_in(root / "proc/meminfo", "MemAvailable:");
  if (machine >= 0) least = machine * 1024;
  const auto sys = root / "sys/fs/cgroup";
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "0::/path" is version 2, "7:memory:/path" version 1
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::filesystem::path group = line.substr(second + 1);
    if (controllers == ",,") {
      least = std::min(least, cgroup_rest(sys, group, "memory.max", "memory.current", "inactive_file "));
    } else if (controllers.find(",memory,") != std::string::npos) {
      least = std::min(least, cgroup_rest(sys / "memory", group, "memory.limit_in_bytes", "memory.usage_in_bytes",
                                          "total_inactive_file "));
    }
  }
  return least;
}

}  // namespace loci
