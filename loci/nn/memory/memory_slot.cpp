#include "loci/nn/memory/memory_slot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/nn/memory/flat_key_memory.h"
#include "loci/nn/memory/peer_memory.h"

namespace loci {
namespace {

[[noreturn]] void refuse_slot(const std::string& expected, const std::string& got) {
  fail(ExitCode::usage, "model", expected, got);
}

// The tables of one memory: the values, and PEER's down-projections.
std::vector<TableSpec> table_specs(const MemoryOptions& m, const std::string& prefix, int64_t width, uint64_t seed) {
  const std::string owner = m.shared_table ? "" : prefix;
  const auto spec = [&](const char* name, int64_t row_width, bool zero) {
    const double std = zero ? 0 : 1 / std::sqrt(static_cast<double>(row_width));
    return TableSpec{owner + name,
                     m.rows,
                     row_width,
                     m.value_type(),
                     m.home,
                     std,
                     seed,
                     m.shard,
                     /*reads=*/m.layer.heads * m.layer.top_k};
  };
  const bool zero = m.start == MemoryStart::zero_values;
  std::vector<TableSpec> specs = {spec("memory.values", m.resolved_value_width(width), zero)};
  if (m.kind == MemoryKind::peer) specs.push_back(spec("memory.down", width, false));
  return specs;
}

}  // namespace

void TableOptions::fields(ConfigFields& f) {
  f.field("rows", rows, "rows of a table", {.minimum = 1, .maximum = int64_t{1} << 48});
  f.field("value_width", value_width, "width of a row; 0: from the model's width", {.minimum = 0, .maximum = 1 << 20});
  f.choice("value_dtype", value_dtype, "type of the rows; int8 serves only (loci convert)",
           {"float32", "bfloat16", "int8"});
  f.choice<TableHome>("home", home, "where the rows are: in memory, or in a file that may be larger than memory",
                      {{"memory", TableHome::memory}, {"mapped", TableHome::mapped}});
  f.choice<TableShard>("shard", shard,
                       "what each of several processes has: rows, columns, or auto: what sends fewer bytes",
                       {{"rows", TableShard::rows}, {"columns", TableShard::columns}, {"auto", TableShard::automatic}});
}

void TableOptions::check(const std::string& section) const {
  if (rows < 1) refuse_slot(section + ".rows must be at least 1", std::to_string(rows));
  if (value_dtype != "float32" && value_dtype != "bfloat16" && value_dtype != "int8") {
    refuse_slot(section + ".value_dtype must be float32, bfloat16 or int8", value_dtype);
  }
}

void MemoryOptions::fields(ConfigFields& f) {
  f.choice("kind", kind, "product keys, a full search over one key for each row, or PEER's experts",
           {{"product_key", MemoryKind::product_key}, {"flat", MemoryKind::flat}, {"peer", MemoryKind::peer}});
  f.field("layers", layers, "layers that get a memory, from 0; negative numbers count from the end");
  f.field("shared_table", shared_table, "one table for all layers instead of one for each");
  f.choice("placement", placement, "in place of the feed-forward block, parallel to it, or after it",
           {{"replace", MemoryPlacement::replace},
            {"parallel", MemoryPlacement::parallel},
            {"after", MemoryPlacement::after}});
  TableOptions::fields(f);
  f.choice("start", start, "what starts at zero: nothing, the rows, or the output map (into a trained model)",
           {{"normal", MemoryStart::normal},
            {"zero_values", MemoryStart::zero_values},
            {"zero_output", MemoryStart::zero_output}});
  f.field("calibrate_at", calibrate_at, "step at which queries and keys start again from the inputs; -1: never",
          {.minimum = -1, .maximum = int64_t{1} << 40});
  f.when(calibrate_at >= 0, "model.memory.calibrate_at is at least 0", [&] {
    f.field("calibrate_tokens", calibrate_tokens, "tokens whose inputs are used to calibrate",
            {.minimum = 2, .maximum = int64_t{1} << 32});
  });
  f.optional_section("reinitialise", has_reinitialise, reinitialise);
  layer.fields(f);
}

double MemoryOptions::row_deviation(int64_t width) const {
  if (start == MemoryStart::zero_values || calibrate_at >= 0) return 0;
  return 1 / std::sqrt(static_cast<double>(resolved_value_width(width)));
}

c10::ScalarType TableOptions::value_type() const {
  if (value_dtype == "int8") return c10::ScalarType::Char;
  return value_dtype == "bfloat16" ? c10::ScalarType::BFloat16 : c10::ScalarType::Float;
}

std::vector<int64_t> layer_numbers(const std::string& key, const std::vector<int64_t>& layers, int64_t model_layers) {
  std::vector<int64_t> result;
  for (const int64_t layer : layers) {
    const int64_t number = layer < 0 ? layer + model_layers : layer;
    if (number < 0 || number >= model_layers) {
      refuse_slot(fmt::format("{} must be within {} .. {}", key, -model_layers, model_layers - 1),
                  std::to_string(layer));
    }
    result.push_back(number);
  }
  std::sort(result.begin(), result.end());
  const auto twice = std::adjacent_find(result.begin(), result.end());
  if (twice != result.end()) refuse_slot(key + " must name each layer once", fmt::format("{} twice", *twice));
  return result;
}

std::vector<int64_t> MemoryOptions::layers_of(int64_t model_layers) const {
  return layer_numbers("memory.layers", layers, model_layers);
}

void check_memory(const MemoryOptions& m, int64_t width, int64_t model_layers) {
  if (m.layers.empty()) refuse_slot("memory.layers must name at least one layer", "none");
  (void)m.layers_of(model_layers);
  m.check("memory");
  if (m.layer.width != 0 && m.layer.width != width) {
    refuse_slot(fmt::format("memory.width must be 0 or the model's {}", width), std::to_string(m.layer.width));
  }
  if (m.layer.output == OutputMap::none && m.resolved_value_width(width) != width) {
    refuse_slot(fmt::format("memory.value_width must be 0 or the model's {} without memory.output", width),
                std::to_string(m.value_width));
  }
  if (m.kind == MemoryKind::flat && m.layer.addressing != RowAddressing::mask) {
    refuse_slot("memory.addressing must be mask for kind flat", "modulo");
  }
  if (m.start == MemoryStart::zero_output && m.layer.output == OutputMap::none) {
    refuse_slot("memory.output must be projection or swilu for start zero_output", "none");
  }
  if (m.has_reinitialise) {
    if (m.kind != MemoryKind::product_key) {
      refuse_slot("memory.kind must be product_key with [model.memory.reinitialise]",
                  m.kind == MemoryKind::flat ? "flat" : "peer");
    }
    m.reinitialise.check("memory.reinitialise");
  }
  if (m.calibrate_at < 0) return;
  if (m.kind == MemoryKind::flat || !m.layer.query_hidden.empty()) {
    refuse_slot("memory.calibrate_at must be -1 for kind flat and with query_hidden",
                fmt::format("{} and {} hidden widths", m.calibrate_at, m.layer.query_hidden.size()));
  }
  if (m.start == MemoryStart::zero_output) {
    refuse_slot("memory.calibrate_at must be -1 for start zero_output (calibration makes the values zero)",
                std::to_string(m.calibrate_at));
  }
  if (m.calibrate_tokens < 2) {
    refuse_slot("memory.calibrate_tokens must be at least 2", std::to_string(m.calibrate_tokens));
  }
}

MemoryCounts count_memory(const MemoryOptions& options, int64_t width) {
  const auto times = [](int64_t a, int64_t b) { return checked_product("model", "parameters", a, b); };
  const auto plus = [](int64_t a, int64_t b) { return checked_sum("model", "parameters", a, b); };
  const ProductKeyMemoryOptions& m = options.layer;
  const int64_t features = times(m.heads, resolved_key_width(m, width));  // H * 2w
  MemoryCounts counts;
  int64_t& dense = counts.dense;
  int64_t inputs = width;
  for (const int64_t hidden : m.query_hidden) {
    dense = plus(dense, times(plus(inputs, 1), hidden));
    inputs = hidden;
  }
  dense = plus(dense, times(inputs, features));
  if (keeps_constant(m.query_norm)) dense = plus(dense, features);  // the last bias
  if (has_gain(m.query_norm)) dense = plus(dense, features);
  if (has_bias(m.query_norm)) dense = plus(dense, features);
  if (m.normalise_keys) dense = plus(dense, m.heads);
  const auto [n1, n2] = sub_keys_for(options.rows);
  const bool flat = options.kind == MemoryKind::flat;
  dense = plus(dense, flat ? times(features, options.rows) : times(features / 2, plus(n1, n2)));
  const int64_t value = options.resolved_value_width(width);
  if (m.output != OutputMap::none) dense = plus(dense, plus(times(width, value), width));
  if (m.output == OutputMap::swilu) dense = plus(dense, times(width, value));
  if (options.placement == MemoryPlacement::after) dense = plus(dense, width);  // a norm of its own

  counts.table_widths = {value};
  if (options.kind == MemoryKind::peer) counts.table_widths.push_back(width);
  for (const int64_t row : counts.table_widths) {
    counts.table_elements = plus(counts.table_elements, times(options.rows, row));
  }
  return counts;
}

std::shared_ptr<MemoryLayer> make_memory(const MemoryOptions& options, const std::string& prefix, int64_t width,
                                         uint64_t seed, const TableMaker& make, std::vector<TablePtr>& tables) {
  const std::vector<TableSpec> specs = table_specs(options, prefix, width, seed);
  std::vector<TablePtr> own;  // in the specs' order
  for (const TableSpec& spec : specs) {
    const auto is_it = [&spec](const TablePtr& table) { return table->name() == spec.name; };
    auto table = std::find_if(tables.begin(), tables.end(), is_it);  // of an earlier layer that shares it
    if (table == tables.end()) table = tables.insert(tables.end(), make(spec));
    own.push_back(*table);
  }
  ProductKeyMemoryOptions layer = options.layer;
  layer.width = width;
  const std::string name = prefix + "memory";
  std::shared_ptr<MemoryLayer> memory;
  switch (options.kind) {
    case MemoryKind::product_key:
      memory = std::make_shared<ProductKeyMemory>(name, layer, own[0], seed);
      break;
    case MemoryKind::flat:
      memory = std::make_shared<FlatKeyMemory>(name, layer, own[0], seed);
      break;
    case MemoryKind::peer:
      memory = std::make_shared<PeerMemory>(name, layer, /*down=*/own[1], /*up=*/own[0], seed);
      break;
  }
  if (options.start == MemoryStart::zero_output) memory->zero_output_map();
  return memory;
}

}  // namespace loci
