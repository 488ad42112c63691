#include "loci/nn/memory/ngram_slot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"

namespace loci {
namespace {

[[noreturn]] void refuse_ngram_slot(const std::string& expected, const std::string& got) {
  fail(ExitCode::usage, "model", expected, got);
}

int64_t columns_of_slot(const NgramOptions& o, int64_t vocabulary) {
  return ngram_columns(o.layer.orders, o.layer.hash_heads, o.rows, vocabulary);
}

}  // namespace

void NgramOptions::fields(ConfigFields& f) {
  f.choice("at", at, "where the rows are read: in layers, or once, added to the token embedding",
           {{"layer", NgramPlace::layer}, {"embedding", NgramPlace::embedding}});
  f.when(at == NgramPlace::layer, "model.ngram.at is \"layer\"", [&] {
    f.field("layers", layers, "layers that get an n-gram memory, from 0; negative numbers count from the end");
  });
  layer.fields(f);
  TableOptions::fields(f);
  f.field("rate", rate, "factor on table_optimizer.learning_rate for these rows", {.minimum = 0});
}

int64_t NgramOptions::resolved_value_width(int64_t width, int64_t vocabulary) const {
  if (value_width != 0) return value_width;
  if (layer.injection != NgramInjection::gate) return width;
  const int64_t columns = columns_of_slot(*this, vocabulary);
  return std::max<int64_t>(1, (width + columns / 2) / columns);
}

std::vector<int64_t> NgramOptions::layers_of(int64_t model_layers) const {
  if (at == NgramPlace::embedding) return {};
  return layer_numbers("ngram.layers", layers, model_layers);
}

int64_t NgramOptions::tables_in(int64_t model_layers) const {
  return at == NgramPlace::embedding ? 1 : static_cast<int64_t>(layers_of(model_layers).size());
}

void check_ngram(const NgramOptions& o, int64_t width, int64_t vocabulary, int64_t model_layers) {
  if (o.at == NgramPlace::layer && o.layers.empty()) {
    refuse_ngram_slot("ngram.layers must name at least one layer", "none");
  }
  (void)o.layers_of(model_layers);
  o.check("ngram");
  if (!(o.rate > 0) || std::isinf(o.rate)) {
    refuse_ngram_slot("ngram.rate must be above 0 and finite", fmt::to_string(o.rate));
  }
  const NgramInjection injection = o.layer.injection;
  if (o.at == NgramPlace::embedding && injection != NgramInjection::sum) {
    refuse_ngram_slot("ngram.injection must be sum for at embedding", "another");
  }
  if (injection == NgramInjection::sum && o.value_width != 0 && o.value_width != width) {
    refuse_ngram_slot(fmt::format("ngram.value_width must be 0 or the model's {} for injection sum", width),
                      std::to_string(o.value_width));
  }
  const int64_t columns = columns_of_slot(o, vocabulary);  // throws for too few rows
  if (injection == NgramInjection::row && (columns != 1 || o.layer.orders.front() != 1)) {
    refuse_ngram_slot("ngram.orders must be [1] with one hash head for injection row",
                      fmt::format("{} rows a token", columns));
  }
}

MemoryCounts count_ngram(const NgramOptions& options, int64_t width, int64_t vocabulary) {
  const auto times = [](int64_t a, int64_t b) { return checked_product("model", "parameters", a, b); };
  const auto plus = [](int64_t a, int64_t b) { return checked_sum("model", "parameters", a, b); };
  const int64_t value = options.resolved_value_width(width, vocabulary);
  MemoryCounts counts;
  if (options.layer.injection == NgramInjection::gate) {
    counts.dense = plus(times(times(times(2, width), columns_of_slot(options, vocabulary)), value), 2 * width);
    if (options.layer.convolution) counts.dense = plus(counts.dense, (1 + NgramMemory::kTaps) * width);
  }
  if (options.layer.injection == NgramInjection::row) counts.dense = times(times(2, width), value);
  counts.table_widths = {value};
  counts.table_elements = times(options.rows, value);
  return counts;
}

std::shared_ptr<NgramMemory> make_ngram(const NgramOptions& options, const std::string& prefix, int64_t width,
                                        int64_t vocabulary, uint64_t seed, const TableMaker& make,
                                        std::vector<TablePtr>& tables) {
  const std::string name = prefix + "ngram";
  TableSpec spec{name + ".values",
                 options.rows,
                 options.resolved_value_width(width, vocabulary),
                 options.value_type(),
                 options.home,
                 /*start_std=*/0,
                 seed,
                 options.shard,
                 ngram_columns(options.layer.orders, options.layer.hash_heads, options.rows, vocabulary)};
  tables.push_back(make(spec));
  NgramMemoryOptions layer = options.layer;
  layer.width = width;
  return std::make_shared<NgramMemory>(name, layer, tables.back(), vocabulary, seed);
}

}  // namespace loci
