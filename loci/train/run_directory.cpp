#include "loci/train/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/durable_file.h"
#include "loci/base/paths.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

using Leaves = std::map<std::string, std::string>;  // "a.b" -> value as TOML

void add_leaves(const toml::table& table, const std::string& prefix, Leaves& leaves) {
  for (const auto& [key, node] : table) {
    const std::string name = prefix + std::string(key.str());
    if (const toml::table* inner = node.as_table()) {
      add_leaves(*inner, name + ".", leaves);
    } else {
      std::ostringstream text;
      node.visit([&text](const auto& value) { text << value; });
      leaves[name] = text.str();
    }
  }
}

Leaves leaves_of(const Config& config) {
  Leaves leaves;
  add_leaves(config.table(), "", leaves);
  return leaves;
}

void require_equal(const Leaves& begun, const Leaves& wanted, const std::string& who) {
  Leaves keys = begun;
  keys.insert(wanted.begin(), wanted.end());
  for (const auto& [key, unused] : keys) {
    const auto was = begun.find(key), is = wanted.find(key);
    const std::string before = was == begun.end() ? "unset" : was->second;
    const std::string after = is == wanted.end() ? "unset" : is->second;
    if (before != after) {
      fail(ExitCode::usage, who, fmt::format("the run was begun with {} = {} and must keep it", key, before), after);
    }
  }
}

}  // namespace

RunDirectory::RunDirectory(fs::path path, std::string_view config)
    : path_(std::move(path)), exceptions_(std::uncaught_exceptions()) {
  for (fs::path at = path_; !at.empty() && !path_exists(at, ExitCode::usage); at = at.parent_path()) made_ = at;
  make_folders(path_, ExitCode::usage);
  descriptor_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor_ < 0) fail_path(path_, "the run directory must be readable", errno, ExitCode::usage);
  try {
    lock();
    remove_leftovers(path_);
    take_config(config);
  } catch (...) {
    close(descriptor_);
    throw;
  }
}

RunDirectory::RunDirectory(fs::path path) : path_(std::move(path)), exceptions_(std::uncaught_exceptions()) {}

RunDirectory::~RunDirectory() {
  if (descriptor_ < 0) return;
  if (!made_.empty() && std::uncaught_exceptions() > exceptions_) remove_unbegun();
  close(descriptor_);
}

MetricsLog RunDirectory::metrics(int64_t step) const {
  if (descriptor_ < 0) return MetricsLog();
  return {path_ / "metrics.jsonl", step};
}

void RunDirectory::remove_unbegun() const {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(path_, ignored)) {
    if (entry.path().filename() != "config.toml" && entry.path().filename() != "data.json") return;
  }
  fs::remove_all(path_, ignored);
  for (fs::path at = path_; at != made_; at = at.parent_path()) fs::remove(at.parent_path(), ignored);  // when empty
}

// The kernel drops the lock with the process, however it ends. A file system without locks goes without.
void RunDirectory::lock() {
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    fail(ExitCode::usage, path_.string(), "the run directory must be free", "another process that is training in it");
  }
}

void RunDirectory::take_config(std::string_view config) {
  const fs::path file = path_ / "config.toml";
  if (path_exists(file)) {
    const Config begun = as_input([&file] { return Config::from_file(file); });
    return require_equal(leaves_of(begun), leaves_of(Config::from_text(config)), file.string());
  }
  if (const std::vector<fs::path> entries = entries_of(path_); !entries.empty()) {
    fail(ExitCode::usage, path_.string(), "the run directory must be empty or hold a run (config.toml)",
         entries.front().filename().string());
  }
  write_file_durably(file, config, ExitCode::usage);
}

}  // namespace loci
