// `loci bench memory_map`: a memory at the side of a feature map, the same from stock LibTorch operators, and a 3x3
// convolution.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "bench/bench.h"

namespace loci::bench {

// Rows {name: forward | train, rows, tokens, width, ms, stock_ms, ratio, convolution_ms, times_the_convolution, bytes,
// ...} and the machine's speeds.
nlohmann::json run_memory_map(const BenchOptions& options);
std::string memory_map_table(const nlohmann::json& report);

}  // namespace loci::bench
