// Memories of every option, small and in float64, for the tests of all kinds.
//
// Legend: R rows, D width of a row.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "loci/nn/memory/product_key_memory.h"
#include "loci/table/local_table.h"

namespace loci {

struct MemoryCase {
  std::string name;
  ProductKeyMemoryOptions options;
  int64_t rows = 14, value_width = 0;  // 0: the layer's
  bool identity = false;               // no query net
};

inline ProductKeyMemoryOptions small_memory(const std::function<void(ProductKeyMemoryOptions&)>& change = {}) {
  ProductKeyMemoryOptions options;
  options.width = 6;
  options.heads = 2;
  options.top_k = 3;
  options.key_width = 8;
  if (change) change(options);
  return options;
}

inline std::vector<MemoryCase> memory_cases() {
  using O = ProductKeyMemoryOptions;
  std::vector<MemoryCase> result = {
      {"default", small_memory()},
      {"mlp", small_memory([](O& o) { o.query_hidden = {11, 5}; })},
      {"no_net", small_memory([](O& o) { o.width = 16; }), 14, 0, /*identity=*/true},
      {"no_norm", small_memory([](O& o) { o.query_norm = QueryNorm::none; })},
      {"rms", small_memory([](O& o) { o.query_norm = QueryNorm::rms; })},
      {"batch", small_memory([](O& o) { o.query_norm = QueryNorm::batch; })},
      {"center", small_memory([](O& o) { o.query_norm = QueryNorm::center; })},
      {"unit_keys", small_memory([](O& o) { o.normalise_keys = true; })},
      {"relu", small_memory([](O& o) { o.weight = WeightFunction::relu; })},
      {"sigmoid", small_memory([](O& o) { o.weight = WeightFunction::sigmoid; })},
      {"projection", small_memory([](O& o) { o.output = OutputMap::projection; }), 14, 9},
      {"swilu", small_memory([](O& o) { o.output = OutputMap::swilu; }), 14, 9},
      {"modulo", small_memory([](O& o) { o.addressing = RowAddressing::modulo, o.top_k = 16; })},
      {"offset", small_memory([](O& o) { o.row_offset = 5; })},
      {"all_rows", small_memory([](O& o) { o.top_k = 14; })},
      {"one_row", small_memory([](O& o) { o.top_k = 1, o.weight = WeightFunction::sigmoid; }), 1},
  };
  for (const int64_t width : {1, 3, 7, 33}) {
    result.push_back({"width_" + std::to_string(width), small_memory([&](O& o) { o.width = width, o.key_width = 0; })});
  }
  return result;
}

template <class Memory>
struct BuiltMemory {
  std::shared_ptr<LocalTable> table;
  std::shared_ptr<Memory> memory;
};

// In float64, with parameters away from their neutral starts.
template <class Memory>
BuiltMemory<Memory> built_memory(const MemoryCase& c, at::ScalarType type = at::kDouble) {
  const int64_t width = c.value_width == 0 ? c.options.width : c.value_width;
  auto table = std::make_shared<LocalTable>("values", c.rows, width, LocalTableOptions{.dtype = type});
  table->store().initialise_normal(1, 1);
  const auto net = c.identity ? std::make_shared<IdentityQueryNet>() : nullptr;
  auto memory = std::make_shared<Memory>("memory", c.options, table, 7, net);
  memory->to(type);
  const torch::NoGradGuard guard;
  torch::manual_seed(5);
  for (auto& parameter : memory->parameters()) parameter.add_(torch::randn_like(parameter), 0.3);
  return {table, memory};
}

}  // namespace loci
