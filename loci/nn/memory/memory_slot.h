// A memory's slot in a model: its kind, how many rows, where they live, where it stands in a block, how it starts.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/memory/memory_layer.h"
#include "loci/nn/memory/product_key_memory.h"
#include "loci/nn/memory/reinitialise.h"
#include "loci/table/table_maker.h"

namespace loci {

enum class MemoryKind { product_key, flat, peer };
// With z what the block's feed-forward f receives: in its place, with it (f(z) + m(z)), or after the whole block.
enum class MemoryPlacement { replace, parallel, after };
// With a zero the memory adds nothing at first. One factor alone may be zero, or nothing would ever move.
enum class MemoryStart { normal, zero_values, zero_output };

// What every kind of memory says of its tables.
struct TableOptions {
  int64_t rows = 16384;
  int64_t value_width = 0;              // 0: as the model's width asks for
  std::string value_dtype = "float32";  // "float32" | "bfloat16" | "int8" (`loci convert` alone makes it)
  TableHome home = TableHome::memory;   // "memory" | "mapped": in a file, where a table may be larger than memory
  TableShard shard = TableShard::rows;  // "rows" | "columns" | "auto": what each of several ranks has
  void fields(ConfigFields& f);

  c10::ScalarType value_type() const;
  // Throws Error (usage) for impossible rows and dtypes of [model.SECTION].
  void check(const std::string& section) const;
};

// Numbers of layers, ascending, where negative ones count from the end. Throws Error (usage) in the name of `key` for
// numbers outside a model of so many layers and for one that is there twice.
std::vector<int64_t> layer_numbers(const std::string& key, const std::vector<int64_t>& layers, int64_t model_layers);

// [model.memory]
struct MemoryOptions : TableOptions {
  MemoryKind kind = MemoryKind::product_key;
  std::vector<int64_t> layers;  // 0-based; negative counts from the end; own tables each unless shared
  bool shared_table = false;
  MemoryPlacement placement = MemoryPlacement::parallel;
  MemoryStart start = MemoryStart::normal;
  int64_t calibrate_at = -1;  // step at which each memory starts again from its inputs; -1: never
  int64_t calibrate_tokens = 8192;
  bool has_reinitialise = false;
  ReinitialiseOptions reinitialise;
  ProductKeyMemoryOptions layer;  // its fields stand directly in [model.memory]
  void fields(ConfigFields& f);

  int64_t resolved_value_width(int64_t width) const { return value_width == 0 ? width : value_width; }
  // Rows start as N(0, row_deviation^2) in a model of this width: 0 where start or calibration makes them zero.
  double row_deviation(int64_t width) const;
  // Numbers of the layers with a memory, ascending, in a model of so many. Throws Error (usage).
  std::vector<int64_t> layers_of(int64_t model_layers) const;
};

// Throws Error (usage) for options that do not fit each other or a model of this width and number of layers.
void check_memory(const MemoryOptions& options, int64_t width, int64_t model_layers);

// What one memory in a model of this width has, before anything is allocated. Throws Error (usage) for counts beyond
// int64.
struct MemoryCounts {
  int64_t dense = 0;                  // parameters
  std::vector<int64_t> table_widths;  // of its tables, each with `rows` rows
  int64_t table_elements = 0;         // of all its tables
};
MemoryCounts count_memory(const MemoryOptions& options, int64_t width);

// The memory of the layer whose names begin with `prefix`. Its tables come from `make`, or are those of an earlier
// layer where they are shared; `tables` lists each once.
std::shared_ptr<MemoryLayer> make_memory(const MemoryOptions& options, const std::string& prefix, int64_t width,
                                         uint64_t seed, const TableMaker& make, std::vector<TablePtr>& tables);

}  // namespace loci
