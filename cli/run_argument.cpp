#include "cli/run_argument.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "cli/output.h"
#include "loci/base/check.h"
#include "loci/base/paths.h"
#include "loci/tasks/all.h"

namespace loci::cli {
namespace {

namespace fs = std::filesystem;

// A larger file, which only a table's is, is opened without reading all of it for its sum. Its size is still checked;
// training that goes on checks everything.
constexpr int64_t kSumLimit = int64_t{4} << 30;

bool is_run(const fs::path& path) {
  return path_exists(path / "config.toml");
}

// The only run below OUT, as ARM/seed-N.
fs::path only_run(const fs::path& out) {
  std::vector<fs::path> runs;
  for (const fs::path& arm : entries_of(out)) {
    if (kind_of(arm) != PathKind::folder) continue;
    for (const fs::path& run : entries_of(arm)) {
      if (is_run(run)) runs.push_back(run);
    }
  }
  if (runs.size() == 1) return runs.front();
  if (runs.empty()) {
    fail(ExitCode::input, out.string(), "RUN must hold config.toml and a step-N folder, or be one", "neither");
  }
  fail(ExitCode::usage, out.string(), "RUN must be one run",
       fmt::format("{}, {} for instance", runs.size(), runs[0].string()));
}

}  // namespace

RunArgument find_run(const fs::path& path) {
  if (const PathKind kind = kind_of(path); kind != PathKind::folder) {
    fail(ExitCode::input, path.string(), "RUN must be a run directory or one of its step-N folders",
         kind == PathKind::nothing ? "nothing there" : "a file");
  }
  const fs::path plain = canonical_path(path);
  if (!is_run(plain) && is_run(plain.parent_path())) {
    return {plain.parent_path(), CheckpointReader(plain, kSumLimit),
            read_run_config(plain.parent_path() / "config.toml", all_tasks())};
  }
  const fs::path run = is_run(plain) ? plain : only_run(plain);
  RunConfig config = read_run_config(run / "config.toml", all_tasks());
  std::vector<std::string> damaged;
  const auto notice = [&damaged](const std::string& line) {
    note(line + "\n");
    damaged.push_back(line);
  };
  CheckpointReader checkpoint = open_latest(run, notice, kSumLimit);
  return {run, std::move(checkpoint), std::move(config), std::move(damaged)};
}

void require_verb(const RunArgument& run, const std::string& verb) {
  std::vector<std::string> with;
  for (const TaskKind& kind : all_tasks()) {
    if (std::find(kind.verbs.begin(), kind.verbs.end(), verb) == kind.verbs.end()) continue;
    if (kind.name == run.config.task) return;
    with.push_back(kind.name);
  }
  fail(ExitCode::usage, verb, fmt::format("RUN must be of the task {}", fmt::join(with, " or ")), run.config.task);
}

fs::path default_cache() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return fs::path(cache) / "loci";
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home != '\0') return fs::path(home) / ".cache" / "loci";
  return temporary_folder() / "loci";
}

}  // namespace loci::cli
