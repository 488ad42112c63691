// A trained run's measures on the validation part of a data folder.
#pragma once

#include <filesystem>
#include <memory>

#include "cli/run_argument.h"
#include "loci/base/progress.h"
#include "loci/train/task.h"

namespace loci::cli {

struct Measured {
  std::unique_ptr<Task> task;  // as it was measured
  Evaluation evaluation;
};

// Loads the run's checkpoint and evaluates it; all ranks do so together. `data` may be empty for a task that makes its
// data itself. Throws Error (usage) when data are missing, (input) when such a task's checkpoint is of another task.
Measured measure(const RunArgument& run, const std::filesystem::path& data, const std::filesystem::path& cache,
                 ProgressLine& progress, const Ranks& ranks = {});

}  // namespace loci::cli
