// `loci bench mapped`: scattered rows of a table in files, with Table::prefetch and by page faults alone.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "bench/bench.h"

namespace loci::bench {

// Rows {pass: read | train, memory: cold | half | warm, rows, row_bytes, faults_ms, prefetch_ms, ratio, ...} and the
// disk's speed, measured before. Files of the tables are made in $TMPDIR and removed.
nlohmann::json run_mapped(const BenchOptions& options);
std::string mapped_text(const nlohmann::json& report);

}  // namespace loci::bench
