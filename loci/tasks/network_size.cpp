#include "loci/tasks/map_memory_size.h"

#include "loci/base/check.h"
#include "loci/nn/memory/query_reservoir.h"
#include "loci/table/usage.h"

namespace loci {

void add_map_memory(RunSize& size, const MapMemoryOptions& memory, int64_t width, const RowOptimizerOptions& rows) {
  const auto times = [](int64_t a, int64_t b) { return checked_product("config", "bytes of the memory", a, b); };
  size.parameters_table = times(memory.rows, width);
  size.counter_bytes = times(memory.rows, static_cast<int64_t>(sizeof(RowUsage)));
  size.memory.emplace_back("tables", times(size.parameters_table, 4));
  size.memory.emplace_back("row optimiser state", RowOptimizer::state_bytes(memory.rows, width, rows, at::kFloat));
  size.memory.emplace_back("counters of rows", times(size.counter_bytes, 2));
  if (memory.has_reinitialise && memory.reinitialise.keys == KeyRule::query) {
    size.memory.emplace_back("sample of queries", QueryReservoir::bytes(memory.heads, memory.key_width / 2));
  }
}

}  // namespace loci
