// `loci bench resnet`: a training step of ResNet-20, and what a memory at its side adds.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "bench/bench.h"

namespace loci::bench {

// Rows {name: plain | side, precision, rows, ms, ms_least, ms_most, times_plain}.
nlohmann::json run_resnet(const BenchOptions& options);
std::string resnet_table(const nlohmann::json& report);

}  // namespace loci::bench
