// Legend: C channels of the map, D width of a row, H heads, Dk key width, n1, n2 sub-keys of the halves.
#include "loci/models/map_memory_options.h"

#include <cmath>
#include <string>

#include "loci/base/check.h"

namespace loci {
namespace {

[[noreturn]] void refuse_map_memory(const std::string& expected, const std::string& got) {
  fail(ExitCode::usage, "model", expected, got);
}

int64_t map_memory_product(int64_t a, int64_t b) {
  return checked_product("model", "its memory's size", a, b);
}

int64_t map_memory_sum(int64_t a, int64_t b) {
  return checked_sum("model", "its memory's size", a, b);
}

// Weights of the query's convolutions, each a multiply-add of every position.
int64_t query_weights(const MapMemoryOptions& m, int64_t channels) {
  int64_t weights = 0, inputs = channels;
  for (size_t i = 0; i < m.query_kernels.size(); ++i) {
    const int64_t outputs = i < m.query_hidden.size() ? m.query_hidden[i] : map_memory_product(m.heads, m.key_width);
    const int64_t positions = map_memory_product(m.query_kernels[i], m.query_kernels[i]);
    weights = map_memory_sum(weights, map_memory_product(map_memory_product(positions, inputs), outputs));
    inputs = outputs;
  }
  return weights;
}

int64_t sub_key_weights(const MapMemoryOptions& m) {
  const auto [n1, n2] = sub_keys_for(m.rows);
  return map_memory_product(map_memory_product(m.heads, m.key_width / 2), n1 + n2);
}

}  // namespace

void MapMemoryOptions::fields(ConfigFields& f) {
  constexpr int64_t most = 1 << 16;
  f.field("rows", rows, "rows of the table", {.minimum = 1, .maximum = int64_t{1} << 40});
  f.field("heads", heads, "independent searches of a position", {.minimum = 1, .maximum = most});
  f.field("top_k", top_k, "rows that a head reads", {.minimum = 1, .maximum = most});
  f.field("key_width", key_width, "width of a whole key, even", {.minimum = 2, .maximum = most});
  f.field("query_kernels", query_kernels, "odd edges of the query's convolutions", {.minimum = 1, .maximum = 63});
  f.field("query_hidden", query_hidden, "channels between the query's convolutions", {.minimum = 1, .maximum = most});
  f.choice("query_norm", query_norm, "normalisation of the queries", query_norm_words());
  f.choice("weight", weight, "scores to weights", weight_function_words());
  f.field("frozen_keys", frozen_keys, "keys stay as they were drawn (a control)");
  f.optional_section("reinitialise", has_reinitialise, reinitialise);
}

void MapMemoryOptions::check() const {
  if (top_k > rows) {
    refuse_map_memory(fmt::format("memory.top_k must be at most memory.rows = {}", rows), std::to_string(top_k));
  }
  if (key_width % 2 != 0) refuse_map_memory("memory.key_width must be even", std::to_string(key_width));
  for (const int64_t kernel : query_kernels) {
    if (kernel < 1 || kernel % 2 == 0) refuse_map_memory("memory.query_kernels must be odd", std::to_string(kernel));
  }
  if (query_kernels.size() != query_hidden.size() + 1) {
    refuse_map_memory(
        fmt::format("memory.query_kernels must be one more than the {} query_hidden", query_hidden.size()),
        std::to_string(query_kernels.size()));
  }
  if (!has_reinitialise) return;
  if (frozen_keys) refuse_map_memory("memory.frozen_keys must be false with [model.memory.reinitialise]", "true");
  reinitialise.check("memory.reinitialise");
}

MemoryMapOptions MapMemoryOptions::map(int64_t channels, int64_t dimensions) const {
  MemoryMapOptions options;
  options.width = channels;
  options.dimensions = dimensions;
  options.heads = heads;
  options.top_k = top_k;
  options.key_width = key_width;
  options.query_kernels = query_kernels;
  options.query_hidden = query_hidden;
  options.query_norm = query_norm;
  options.weight = weight;
  return options;
}

double MapMemoryOptions::row_deviation(int64_t width) {
  return 1 / std::sqrt(static_cast<double>(width));
}

TablePtr MapMemoryOptions::make_table(const std::string& name, int64_t width, uint64_t seed,
                                      const TableMaker& tables) const {
  return tables({name + ".values", rows, width, at::kFloat, TableHome::memory, row_deviation(width), seed});
}

std::shared_ptr<MemoryMap> MapMemoryOptions::make_map(const std::string& name, int64_t channels, int64_t dimensions,
                                                      int64_t width, uint64_t seed, const TableMaker& tables) const {
  auto result =
      std::make_shared<MemoryMap>(name, map(channels, dimensions), make_table(name, width, seed, tables), seed);
  freeze(*result->memory);
  return result;
}

void MapMemoryOptions::freeze(ProductKeyMemory& memory) const {
  if (!frozen_keys) return;
  for (at::Tensor keys : {memory.keys1, memory.keys2}) keys.set_requires_grad(false);
}

int64_t MapMemoryOptions::parameters(int64_t channels) const {
  const int64_t features = map_memory_product(heads, key_width);
  int64_t dense = map_memory_sum(query_weights(*this, channels), sub_key_weights(*this));
  for (const int64_t hidden : query_hidden) dense = map_memory_sum(dense, 2 * hidden);  // norms
  if (keeps_constant(query_norm)) dense = map_memory_sum(dense, features);              // the last bias
  if (has_gain(query_norm)) dense = map_memory_sum(dense, features);
  if (has_bias(query_norm)) dense = map_memory_sum(dense, features);
  return dense;
}

int64_t MapMemoryOptions::multiply_adds(int64_t channels, int64_t width) const {
  const int64_t read = map_memory_product(map_memory_product(heads, top_k), width);
  return map_memory_sum(map_memory_sum(query_weights(*this, channels), sub_key_weights(*this)), read);
}

double MapMemoryOptions::position_bytes(int64_t width, double small) const {
  const double features = static_cast<double>(heads) * static_cast<double>(key_width);
  const double reads = static_cast<double>(heads) * static_cast<double>(top_k);
  const auto [n1, n2] = sub_keys_for(rows);
  const double scores = static_cast<double>(heads) * static_cast<double>(n1 + n2) * 8;
  return features * (small + 8) + reads * 16 + static_cast<double>(width) * 16 + scores;
}

}  // namespace loci
