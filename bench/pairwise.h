// `loci bench pairwise`: forward and backward of the pairwise operators and of whole non-local blocks.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "bench/bench.h"

namespace loci::bench {

// operators {form, queries, keys, inner, order, ms, ms_least, ms_most, definition_ms, ratio, rival_ms, rival_ratio,
// matrix_bytes}; blocks {form, map, channels, pool, ms, pairs_ms, share_of_pairs}.
nlohmann::json run_pairwise(const BenchOptions& options);
std::string pairwise_table(const nlohmann::json& report);

}  // namespace loci::bench
