// A trained run's measures on the validation part of a data folder.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/run_argument.h"
#include "loci/base/progress.h"

namespace loci::cli {

// Of what evaluation measures, the part that the command line promises: {loss, bits_per_byte, tokens, memories}.
nlohmann::json measure(const RunArgument& run, const std::filesystem::path& data, const std::filesystem::path& cache,
                       ProgressLine& progress);

}  // namespace loci::cli
