#include "loci/tasks/network_size.h"

#include <algorithm>

#include "loci/base/check.h"
#include "loci/nn/memory/query_reservoir.h"
#include "loci/table/usage.h"

namespace loci {

RunSize network_size(int64_t parameters_dense, int64_t multiply_adds, const BatchShape& batch) {
  RunSize size;
  size.parameters_dense = parameters_dense;
  size.units_per_step = batch.batch;
  size.multiply_adds = multiply_adds;
  size.memory = {{"dense parameters", 4 * parameters_dense}, {"dense gradients", 4 * parameters_dense}};
  return size;
}

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

void add_activations(RunSize& size, double bytes, const BatchShape& batch) {
  constexpr double most = 9e18;
  const double all = std::min(most, bytes * static_cast<double>(batch.per_micro_batch()));
  size.memory.emplace_back("activations", static_cast<int64_t>(all));
}

}  // namespace loci
