// A product-key memory on the feature maps of a model: its fields in configurations, checks and counts. The layer is
// loci/nn/memory/memory_map.h.
//
// Legend: C channels of the map, D width of a row.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/memory/memory_map.h"
#include "loci/nn/memory/reinitialise.h"
#include "loci/table/table_maker.h"

namespace loci {

// [model.memory]
struct MapMemoryOptions {
  int64_t rows = 4096;
  int64_t heads = 4;
  int64_t top_k = 16;
  int64_t key_width = 64;
  std::vector<int64_t> query_kernels = {1};
  std::vector<int64_t> query_hidden;
  QueryNorm query_norm = QueryNorm::batch;
  WeightFunction weight = WeightFunction::softmax;
  bool frozen_keys = false;  // keys stay as they were drawn
  bool has_reinitialise = false;
  ReinitialiseOptions reinitialise;
  void fields(ConfigFields& f);

  // Throws Error (usage) for options that do not fit each other.
  void check() const;
  // On maps of C channels and so many dimensions (0: vectors).
  MemoryMapOptions map(int64_t channels, int64_t dimensions = 2) const;
  // Rows start as N(0, row_deviation^2), so that the expected sum of a row's squares is 1.
  static double row_deviation(int64_t width);
  // The table `name`.values, with rows D wide.
  TablePtr make_table(const std::string& name, int64_t width, uint64_t seed, const TableMaker& tables) const;
  // A memory map with such a table. Frozen keys have no gradient.
  std::shared_ptr<MemoryMap> make_map(const std::string& name, int64_t channels, int64_t dimensions, int64_t width,
                                      uint64_t seed, const TableMaker& tables) const;
  // Takes the gradient of the keys away where they are frozen.
  void freeze(ProductKeyMemory& memory) const;

  // Without the table, and without a map after the rows: dense parameters, and multiply-adds of one position (query,
  // products with sub-keys, sum of rows D wide). Throws Error (usage) for counts beyond int64.
  int64_t parameters(int64_t channels) const;
  int64_t multiply_adds(int64_t channels, int64_t width) const;
  // Bytes of one position that backward keeps, and of its scores; `small`: bytes of a number of the model.
  double position_bytes(int64_t width, double small) const;
};

}  // namespace loci
