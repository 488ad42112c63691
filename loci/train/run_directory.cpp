#include "loci/train/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/durable_file.h"

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

RunDirectory::RunDirectory(fs::path path, std::string_view config) : path_(std::move(path)) {
  const std::error_code error = create_folders_durably(path_);
  descriptor_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor_ < 0) {
    const int reason = error ? error.value() : errno;
    fail(reason == ENOSPC || reason == EDQUOT ? ExitCode::resources : ExitCode::usage, path_.string(),
         "the run directory must be a folder that can be made", std::generic_category().message(reason));
  }
  try {
    lock();
    remove_leftovers(path_);
    take_config(config);
  } catch (...) {
    close(descriptor_);
    throw;
  }
}

RunDirectory::~RunDirectory() {
  close(descriptor_);
}

// The kernel drops the lock with the process, however it ends. A file system without locks goes without.
void RunDirectory::lock() {
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    fail(ExitCode::usage, path_.string(), "the run directory must be free", "another process that is training in it");
  }
}

void RunDirectory::take_config(std::string_view config) {
  const fs::path file = path_ / "config.toml";
  if (fs::exists(file)) {
    require_equal(leaves_of(Config::from_file(file)), leaves_of(Config::from_text(config)), file.string());
    return;
  }
  if (!fs::is_empty(path_)) {
    fail(ExitCode::usage, path_.string(), "the run directory must be empty or hold a run (config.toml)",
         fs::directory_iterator(path_)->path().filename().string());
  }
  write_file_durably(file, config);
}

}  // namespace loci
