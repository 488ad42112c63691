// What a language model needs, from its configuration alone.
//
// Legend: T tokens of a micro-batch, d width, f width of the feed-forward, V vocabulary, H heads, n sub-keys, F query
// features H * 2w, M reads of a token H * top_k, R rows, D their width, U distinct rows of a step.
#include <algorithm>
#include <cmath>
#include <limits>

#include "loci/base/check.h"
#include "loci/models/transformer_lm_options.h"
#include "loci/models/vocabulary_loss.h"
#include "loci/table/sharded_table.h"
#include "loci/table/usage.h"
#include "loci/tasks/language_model.h"

namespace loci {
namespace {

constexpr int64_t kByteVocabulary = 257;  // the byte tokenizer's: the bytes and the end of a text

// In double: an estimate must not overflow, and a kibibyte does not matter.
int64_t whole(double bytes) {
  constexpr double most = 9e18;
  return bytes >= most ? std::numeric_limits<int64_t>::max() : static_cast<int64_t>(bytes);
}

void add_bytes(MemoryEstimate& estimate, const std::string& purpose, double bytes) {
  for (auto& [name, sum] : estimate) {
    if (name == purpose) {
      sum = whole(static_cast<double>(sum) + bytes);
      return;
    }
  }
  estimate.emplace_back(purpose, whole(bytes));
}

// What backward keeps of one layer for one token; `small` bytes for what linear layers take and give.
double layer_bytes(const TransformerLmOptions& options, double small) {
  const auto d = static_cast<double>(options.width);
  const auto f = static_cast<double>(options.ffn_width == 0 ? 4 * options.width : options.ffn_width);
  const double copies = small < 4 ? small : 0;  // autocast keeps what it cast
  const double norms = 4 * 4 * d + 2 * copies * d;
  const double attention = small * 3 * d + 4 * 2 * d + copies * 2 * d + small * d;
  return norms + attention + small * 2 * f;
}

// The same of one memory.
double memory_bytes(const MemoryOptions& memory, int64_t width, double small) {
  const double features =
      static_cast<double>(memory.layer.heads) * static_cast<double>(resolved_key_width(memory.layer, width));
  const double reads = static_cast<double>(memory.layer.heads) * static_cast<double>(memory.layer.top_k);
  const auto value = static_cast<double>(memory.resolved_value_width(width));
  const double peer = memory.kind == MemoryKind::peer ? reads * 12 + static_cast<double>(width) * 4 : 0;
  return features * (small + 8) + reads * 16 + value * 8 + peer;
}

// The calibration of one memory: inputs and queries in double (nn/calibrate.cpp).
double calibration_bytes(const MemoryOptions& memory, int64_t width) {
  if (memory.calibrate_at < 0) return 0;
  const double features =
      static_cast<double>(memory.layer.heads) * static_cast<double>(resolved_key_width(memory.layer, width));
  return static_cast<double>(memory.calibrate_tokens) * 16 * (static_cast<double>(width) + features);
}

// Scores and their gradients of one memory: made and dropped again, one memory at a time.
double search_bytes(const MemoryOptions& memory, double tokens) {
  const auto heads = static_cast<double>(memory.layer.heads);
  const auto rows = static_cast<double>(memory.rows);
  const double scores = memory.kind == MemoryKind::flat ? rows : 2 * std::ceil(std::sqrt(rows));
  return tokens * heads * scores * 4 * 2;
}

// Adds what the tables of one kind of memory take: `count` of them with rows of these widths, read `reads` times in a
// micro-batch.
void add_tables(RunSize& size, const TableOptions& table, double count, const std::vector<int64_t>& widths,
                double reads, const BatchShape& batch, const RowOptimizerOptions& optimizer) {
  const at::ScalarType type = table.value_type();
  const auto rows = static_cast<double>(table.rows);
  double row = 0, state = 0;  // of a row in each of the tables
  for (const int64_t width : widths) {
    row += static_cast<double>(c10::elementSize(type)) * static_cast<double>(width);
    state += static_cast<double>(RowOptimizer::state_bytes(1, width, optimizer, type));
  }
  MemoryEstimate& home = table.home == TableHome::mapped ? size.disk : size.memory;
  add_bytes(home, "tables", count * rows * row);
  add_bytes(home, "row optimiser state", count * rows * state);
  // References and their order; the sums of rows are never in memory.
  const double distinct = std::min(rows, reads * static_cast<double>(batch.accumulation));
  add_bytes(size.memory, "row gradient", static_cast<double>(widths.size()) * (distinct * 16 + reads * 40));
}

// What backward keeps of one n-gram memory for one token.
double ngram_bytes(const NgramOptions& ngram, const TransformerLmOptions& model, double small) {
  const auto d = static_cast<double>(model.width);
  const auto columns =
      static_cast<double>(ngram_columns(ngram.layer.orders, ngram.layer.hash_heads, ngram.rows, model.vocabulary));
  const auto read = static_cast<double>(ngram.resolved_value_width(model.width, model.vocabulary));
  const double index = columns * 16 + 4 * d;
  switch (ngram.layer.injection) {
    case NgramInjection::sum:
      return index;
    case NgramInjection::gate:
      return index + columns * read * (4 + small) + 8 * 4 * d + (ngram.layer.convolution ? 8 * 4 * d : 0);
    case NgramInjection::row:
      return index + read * (8 + 3 * small) + d * small;
  }
  return index;
}

// The `count` tables of one kind of memory and width, each read K times by a pass of a token; `passes` of all of them.
void add_exchanges(RunSize& size, const std::vector<std::string>& names, const TableOptions& table,
                   const std::vector<int64_t>& widths, int64_t reads, int64_t count, int64_t passes,
                   const RowOptimizerOptions& optimizer) {
  const bool row_moment = has_row_moment(optimizer.rule), mapped = table.home == TableHome::mapped;
  const int64_t state = RowOptimizer::state_bytes(table.rows, 0, optimizer, table.value_type());
  for (size_t i = 0; i < widths.size(); ++i) {
    const TableReads of = {.reads = reads, .rows = table.rows, .width = widths[i], .row_moment = row_moment};
    const int64_t bytes = checked_product("config", "row optimiser state", count, state);
    size.exchanges.push_back({names.at(i), of, passes, table.shard, bytes, mapped});
  }
}

}  // namespace

void LanguageModelPlan::check() const {
  TransformerLm::count_parameters(model_for(tokenizer.vocabulary));
  if (!model.causal) masking.check();
}

void LanguageModelPlan::check_ranks(const Ranks& ranks) const {
  if (ranks.size == 1) return;
  for (const TableExchange& exchange : size({ranks.size, 1}, {}, /*bfloat16=*/false).exchanges) {
    if (parts_of(exchange.shard, ranks.size, exchange.reads) == TableParts::rows) continue;
    ShardedTable::equal_columns(exchange.table, exchange.reads.width, ranks);  // throws for too few
  }
  if (!model.has_memory) return;
  const auto require = [](bool holds, const std::string& expected, const std::string& got) {
    if (!holds) fail(ExitCode::usage, "language_model", expected, got);
  };
  require(model.memory.calibrate_at < 0, "model.memory.calibrate_at must be -1 on several ranks",
          fmt::to_string(model.memory.calibrate_at));
  require(!model.memory.has_reinitialise, "model.memory.reinitialise must not be set on several ranks", "set");
}

RunSize LanguageModelPlan::size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const {
  const TransformerLmOptions options = model_for(tokenizer.kind == "bytes" ? kByteVocabulary : tokenizer.vocabulary);
  const auto [dense, table] = TransformerLm::count_parameters(options);
  const double small = bfloat16 ? 2 : 4;
  const auto tokens = static_cast<double>(batch.per_micro_batch()) * static_cast<double>(options.context);
  const auto d = static_cast<double>(options.width);
  double activations = tokens * (static_cast<double>(options.layers) * layer_bytes(options, small) + 16 * d);
  const double loss = 3.0 * 4 * static_cast<double>(vocabulary_loss_logits(options.vocabulary)) + tokens * d * 8 +
                      static_cast<double>(options.vocabulary) * d * 8;

  RunSize size;
  size.parameters_dense = dense;
  size.parameters_table = table;
  size.units_per_step = checked_product("config", "tokens of a step", batch.batch, options.context);
  size.memory = {{"dense parameters", whole(4.0 * static_cast<double>(dense))},
                 {"dense gradients", whole(4.0 * static_cast<double>(dense))},
                 {"loss", whole(loss)}};
  if (options.has_memory) {
    const MemoryOptions& memory = options.memory;
    const auto layers = static_cast<double>(memory.layers.size());
    const double reads = tokens * static_cast<double>(memory.layer.heads) * static_cast<double>(memory.layer.top_k);
    activations += layers * tokens * memory_bytes(memory, options.width, small) + search_bytes(memory, tokens);
    activations = std::max(activations, calibration_bytes(memory, options.width));  // between two steps
    add_tables(size, memory, memory.shared_table ? 1 : layers, count_memory(memory, options.width).table_widths, reads,
               batch, rows);
    const int64_t passes = std::ssize(memory.layers);
    add_exchanges(size, {"memory.values", "memory.down"}, memory, count_memory(memory, options.width).table_widths,
                  memory.layer.heads * memory.layer.top_k, memory.shared_table ? 1 : passes, passes, rows);
    const double counters = layers * static_cast<double>(memory.rows) * static_cast<double>(sizeof(RowUsage));
    size.counter_bytes = whole(counters);
    add_bytes(size.memory, "counters of rows", 2 * counters);
    if (memory.has_reinitialise && memory.reinitialise.keys == KeyRule::query) {
      const int64_t half = resolved_key_width(memory.layer, options.width) / 2;
      add_bytes(size.memory, "sample of queries",
                layers * static_cast<double>(QueryReservoir::bytes(1, half)) * static_cast<double>(memory.layer.heads));
    }
  }
  if (options.has_ngram) {
    const NgramOptions& ngram = options.ngram;
    const auto count = static_cast<double>(ngram.tables_in(options.layers));
    const auto columns =
        static_cast<double>(ngram_columns(ngram.layer.orders, ngram.layer.hash_heads, ngram.rows, options.vocabulary));
    activations += count * tokens * ngram_bytes(ngram, options, small);
    add_tables(size, ngram, count, count_ngram(ngram, options.width, options.vocabulary).table_widths, tokens * columns,
               batch, rows);
    const auto tables = static_cast<int64_t>(count);
    add_exchanges(size, {"ngram.values"}, ngram, count_ngram(ngram, options.width, options.vocabulary).table_widths,
                  static_cast<int64_t>(columns), tables, tables, rows);
    // Of an evaluation alone: usage, and a hundred bytes for each n-gram (NgramCollisions).
    const double counters = count * static_cast<double>(ngram.rows) * static_cast<double>(sizeof(RowUsage));
    const double ngrams = count * columns * 100 * static_cast<double>(data.evaluation_tokens);
    size.counter_bytes = whole(static_cast<double>(size.counter_bytes) + counters + ngrams);
    add_bytes(size.memory, "counters of rows", counters + ngrams);
  }
  size.memory.emplace_back("activations", whole(activations));
  return size;
}

}  // namespace loci
