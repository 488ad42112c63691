// What a rank sends to the others in a training step, for the plan of a run.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "loci/train/task.h"

namespace loci {

// Bytes of a step that the mean rank sends: {"dense_gradients", "total", "tables": [{"table", "shard", "bytes",
// "bytes_rows", "bytes_columns", "auto"}]}. Those of tables are expected ones, of even and independent reads
// (exchange_cost.h).
nlohmann::json wire_of(const RunSize& size, int64_t ranks);
std::string wire_text(const nlohmann::json& wire);

}  // namespace loci
