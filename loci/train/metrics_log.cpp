#include "loci/train/metrics_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include "loci/base/durable_file.h"
#include "loci/base/paths.h"

namespace loci {
namespace {

constexpr std::string_view kLogWritable = "the log must be writable";

bool belongs(std::string_view line, int64_t step) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) return false;
  const auto found = json.find("step");
  return found == json.end() || !found->is_number_integer() || found->get<int64_t>() <= step;
}

// Rewrites the log without the lines that do not belong to the first `step` steps.
void trim(const std::filesystem::path& path, int64_t step) {
  if (!path_exists(path)) return;
  const std::string text = read_text_file(path);
  std::string kept;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    if (belongs(line, step)) kept.append(line).append("\n");
    begin = end + 1;
  }
  if (kept != text) write_file_durably(path, kept);
}

}  // namespace

MetricsLog::MetricsLog(std::filesystem::path path, int64_t step) : path_(std::move(path)) {
  trim(path_, step);
  descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_path(path_, kLogWritable, errno);
}

MetricsLog::~MetricsLog() {
  if (descriptor_ >= 0) close(descriptor_);
}

void MetricsLog::write(const nlohmann::json& line) {
  if (descriptor_ < 0) return;
  const std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  struct stat before = {};
  if (fstat(descriptor_, &before) != 0) fail_path(path_, kLogWritable, errno);
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
    if (written < 0 && errno != EINTR) {
      const int error = errno;
      static_cast<void>(ftruncate(descriptor_, before.st_size) == 0);  // the next start drops a half line anyway
      fail_path(path_, kLogWritable, error);
    }
    if (written > 0) rest.remove_prefix(static_cast<size_t>(written));
  }
}

void MetricsLog::sync() {
  if (descriptor_ < 0) return;
  int result = fsync(descriptor_);
  while (result != 0 && errno == EINTR) result = fsync(descriptor_);
  if (result != 0 && errno != EINVAL) fail_path(path_, "the log must reach the disk", errno);  // EINVAL: cannot sync
}

}  // namespace loci
