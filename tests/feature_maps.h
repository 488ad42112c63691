// Memories on small feature maps, for tests.
//
// Legend: B batch, C channels, D width of a row.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "loci/nn/memory/memory_map.h"
#include "loci/table/local_table.h"
#include "tests/memory_cases.h"

namespace loci {

using MapChange = std::function<void(MemoryMapOptions&)>;

inline MemoryMapOptions small_map_options(int64_t channels, const MapChange& change) {
  MemoryMapOptions options;
  options.width = channels;
  options.heads = 2;
  options.top_k = 4;
  options.key_width = 8;
  if (change) change(options);
  return options;
}

// A MemoryMap or SideMemory with the table that it reads, whose rows are N(0, deviation^2); zeros for 0.
template <class Module>
BuiltMemory<Module> built_on_table(const std::string& name, const MemoryMapOptions& options, int64_t rows,
                                   int64_t row_width, at::ScalarType type, double deviation) {
  auto table = std::make_shared<LocalTable>("values", rows, row_width, LocalTableOptions{.dtype = type});
  if (deviation > 0) table->store().initialise_normal(1, deviation);
  auto memory = std::make_shared<Module>(name, options, table, 7);
  memory->to(type);
  return {table, memory};
}

constexpr int64_t kMapChannels = 5, kMapRowWidth = 7, kMapRows = 30;

struct BuiltMap {
  std::shared_ptr<LocalTable> table;
  std::shared_ptr<MemoryMap> map;
};

// Its parameters are away from their neutral starts.
inline BuiltMap built_map(int64_t dimensions, const MapChange& change = {}, at::ScalarType type = at::kDouble) {
  MemoryMapOptions options = small_map_options(kMapChannels, [&](auto& o) { o.dimensions = dimensions; });
  if (change) change(options);
  const auto [table, map] = built_on_table<MemoryMap>("map", options, kMapRows, kMapRowWidth, type, /*deviation=*/1);
  const torch::NoGradGuard guard;
  torch::manual_seed(5);
  for (auto& parameter : map->parameters()) parameter.add_(torch::randn_like(parameter), 0.3);
  return {table, map};
}

// [B, C, ...] with unequal edges.
inline std::vector<int64_t> map_sizes(int64_t dimensions, int64_t channels = kMapChannels) {
  const std::vector<int64_t> edges = {3, 5, 2};
  std::vector<int64_t> sizes = {2, channels};
  sizes.insert(sizes.end(), edges.begin(), edges.begin() + dimensions);
  return sizes;
}

inline at::Tensor channels_last(const at::Tensor& x) {
  return x.movedim(1, -1).contiguous().movedim(-1, 1);
}

}  // namespace loci
