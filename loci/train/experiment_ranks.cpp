// Several ranks that train the runs of an experiment together.
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>

#include "loci/base/cpu_level.h"
#include "loci/distributed/agreement.h"
#include "loci/distributed/same_on_ranks.h"
#include "loci/train/experiment.h"
#include "loci/train/version.h"

namespace loci {

void Experiment::check_ranks() const {
  if (options_.ranks.size == 1) return;
  for (const Arm* arm : arms_) {
    if (arm->equal_time) {
      fail(ExitCode::usage, "train", fmt::format("the arm {} of equal time must be timed on one rank", arm->name),
           fmt::format("{} ranks", options_.ranks.size));
    }
    arm->config.plan->check_ranks(options_.ranks);
  }
}

void Experiment::require_equal_ranks() const {
  std::string runs;
  for (const Place& place : places_) runs += Config::write(recipe_.run(*place.arm, place.seed)) + "\n";
  require_same(options_.ranks, {{"loci", std::string(version())},
                                {"torch", TORCH_VERSION},
                                {"level of kernels", std::string(name_of(cpu_level()))},
                                {"--resume", options_.resume ? "given" : "not given"},
                                {"recipe", runs}});
}

int64_t Experiment::ranks_of_same_memory() const {
  std::array<char, 256> host = {};
  gethostname(host.data(), host.size() - 1);
  std::ostringstream here;
  here << host.data() << "\n" << std::ifstream("/proc/self/cgroup").rdbuf();
  const std::vector<std::string> all = gather_texts(options_.ranks, here.str());
  return std::ranges::count(all, here.str());
}

// Rank 0 keeps the run; the others find its folder made.
std::unique_ptr<RunDirectory> Experiment::run_directory(const RunConfig& config) const {
  const std::filesystem::path folder = folder_of(config.arm, config.seed);
  std::unique_ptr<RunDirectory> run;
  together(options_.ranks, [&] {
    if (leads()) run = std::make_unique<RunDirectory>(folder, Config::write(config));
  });
  if (!run) run = std::make_unique<RunDirectory>(folder);
  return run;
}

std::optional<CheckpointReader> Experiment::newest_checkpoint(const RunConfig& config, ProgressLine& progress) const {
  constexpr int64_t no_sums = 0;
  const std::filesystem::path folder = folder_of(config.arm, config.seed);
  std::optional<CheckpointReader> checkpoint;
  together(options_.ranks, [&] {
    if (!leads() || !newest_step_folder(folder)) return;
    checkpoint = open_latest(folder, [&](const std::string& line) { progress.finish(line); });
  });
  const std::string found = checkpoint ? checkpoint->path().filename().string() : "";
  const std::string name = gather_texts(options_.ranks, found).front();
  together(options_.ranks, [&] {
    if (!leads() && !name.empty()) checkpoint.emplace(folder / name, no_sums);
  });
  return checkpoint;
}

}  // namespace loci
