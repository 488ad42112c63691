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

}  // namespace

void LanguageModelPlan::check() const {
  TransformerLm::count_parameters(model_for(tokenizer.vocabulary));
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
    const at::ScalarType type = memory.value_type();
    const auto layers = static_cast<double>(memory.layers.size());
    const double tables = memory.shared_table ? 1 : layers;
    const auto all_rows = static_cast<double>(memory.rows);
    const double reads = tokens * static_cast<double>(memory.layer.heads) * static_cast<double>(memory.layer.top_k);
    const double distinct = std::min(all_rows, reads * static_cast<double>(batch.accumulation));
    activations += layers * tokens * memory_bytes(memory, options.width, small) + search_bytes(memory, tokens);
    activations = std::max(activations, calibration_bytes(memory, options.width));  // between two steps
    MemoryEstimate& home = memory.home == TableHome::mapped ? size.disk : size.memory;
    home.emplace_back("tables", whole(static_cast<double>(c10::elementSize(type)) * static_cast<double>(table)));
    int64_t row_state = 0;  // of a row in each table of a memory
    for (const int64_t width : count_memory(memory, options.width).table_widths) {
      row_state += RowOptimizer::state_bytes(1, width, rows, type);
    }
    home.emplace_back("row optimiser state", whole(tables * all_rows * static_cast<double>(row_state)));
    // References and their order; the sums of rows are never in memory.
    const double peer = memory.kind == MemoryKind::peer ? 2 : 1;  // both of its tables
    size.memory.emplace_back("row gradient", whole(peer * (distinct * 16 + reads * 40)));
    size.counter_bytes = whole(layers * all_rows * static_cast<double>(sizeof(RowUsage)));
    size.memory.emplace_back("counters of rows", whole(2.0 * static_cast<double>(size.counter_bytes)));
  }
  size.memory.emplace_back("activations", whole(activations));
  return size;
}

}  // namespace loci
