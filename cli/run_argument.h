// What RUN means on the command line, and where prepared data is kept.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "loci/train/checkpoint_folder.h"
#include "loci/train/recipe.h"

namespace loci::cli {

struct RunArgument {
  std::filesystem::path folder;  // of the run
  CheckpointReader checkpoint;
  RunConfig config;
  std::vector<std::string> damaged = {};  // newer checkpoints that were left out, each with the reason
};

// Throws Error (usage) unless the run's task has this verb.
void require_verb(const RunArgument& run, const std::string& verb);

// RUN is a run directory (its newest checkpoint), one of its step-N folders, or an OUT with a single run in it. Throws
// Error (input) when there is no complete checkpoint, (usage) when several runs could be meant.
RunArgument find_run(const std::filesystem::path& path);

// $XDG_CACHE_HOME/loci, ~/.cache/loci, or a folder in the system's temporary one.
std::filesystem::path default_cache();

}  // namespace loci::cli
