// `loci bench memory`: a product-key memory beside the same from stock LibTorch operators.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "bench/bench.h"

namespace loci::bench {

// Rows {name: forward | train | search | read | update | decode, rows, tokens, width, dtype, us_per_token,
// stock_us_per_token, ratio, share_of_bound, ...} and the machine's speeds.
nlohmann::json run_memory(const BenchOptions& options);
std::string memory_table(const nlohmann::json& report);

}  // namespace loci::bench
