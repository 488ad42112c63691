// Options of the language model: fields, checks, counts.
#include <algorithm>
#include <string>

#include "loci/base/check.h"
#include "loci/models/transformer_lm.h"
#include "loci/models/transformer_lm_options.h"

namespace loci {
namespace {

[[noreturn]] void refuse(const std::string& expected, const std::string& got) {
  fail(ExitCode::usage, "model", expected, got);
}

void check_at_least_one(const char* name, int64_t value) {
  if (value < 1) refuse(fmt::format("{} must be at least 1", name), std::to_string(value));
}

}  // namespace

void TransformerLmOptions::fields(ConfigFields& f) {
  constexpr int64_t most = 1 << 20;
  f.field("vocabulary", vocabulary, "tokens of the embedding; 0: as many as the tokenizer has",
          {.minimum = 0, .maximum = int64_t{1} << 31});
  f.field("layers", layers, "layers of attention and feed-forward", {.minimum = 1, .maximum = 1 << 16});
  f.field("width", width, "width of the residual stream, a multiple of 2 * heads", {.minimum = 2, .maximum = most});
  f.field("heads", heads, "heads of the attention", {.minimum = 1, .maximum = most});
  f.field("ffn_width", ffn_width, "hidden width of the feed-forward blocks; 0: 4 * width",
          {.minimum = 0, .maximum = int64_t{1} << 24});
  f.field("context", context, "tokens of the longest sequence", {.minimum = 1, .maximum = 1 << 30});
  f.field("dropout", dropout, "dropout of the residual branches", {.minimum = 0, .maximum = 1});
  f.field("causal", causal, "false: positions see both sides, and the model learns to fill in masked tokens");
  f.optional_section("memory", has_memory, memory);
  f.optional_section("ngram", has_ngram, ngram);
}

std::vector<int64_t> memory_layers(const TransformerLmOptions& options) {
  return options.has_memory ? options.memory.layers_of(options.layers) : std::vector<int64_t>{};
}

std::vector<int64_t> ngram_layers(const TransformerLmOptions& options) {
  return options.has_ngram ? options.ngram.layers_of(options.layers) : std::vector<int64_t>{};
}

void check_model_options(const TransformerLmOptions& options) {
  check_at_least_one("vocabulary", options.vocabulary);
  check_at_least_one("layers", options.layers);
  check_at_least_one("heads", options.heads);
  check_at_least_one("context", options.context);
  if (options.width < 2 || options.heads > options.width || options.width % (2 * options.heads) != 0) {
    refuse("width must be a multiple of 2 * heads (rotary positions turn pairs)",
           fmt::format("width {}, heads {}", options.width, options.heads));
  }
  if (options.ffn_width < 0) refuse("ffn_width must be at least 0", std::to_string(options.ffn_width));
  if (!(options.dropout >= 0 && options.dropout < 1)) {
    refuse("dropout must be at least 0 and below 1", std::to_string(options.dropout));
  }
  if (!options.causal && options.has_ngram) {
    refuse("ngram must be absent where causal is false (an n-gram is of the tokens before, and some are masked)",
           "[model.ngram]");
  }
  if (options.has_memory) check_memory(options.memory, options.width, options.layers);
  if (options.has_ngram) check_ngram(options.ngram, options.width, options.vocabulary, options.layers);
}

int64_t resolved_ffn_width(const TransformerLmOptions& options) {
  return options.ffn_width == 0 ? 4 * options.width : options.ffn_width;
}

std::pair<int64_t, int64_t> TransformerLm::count_parameters(const TransformerLmOptions& options) {
  check_model_options(options);
  const auto times = [](int64_t a, int64_t b) { return checked_product("model", "parameters", a, b); };
  const auto plus = [](int64_t a, int64_t b) { return checked_sum("model", "parameters", a, b); };
  const int64_t d = options.width, ffn = resolved_ffn_width(options);
  const int64_t maps = times(times(2, d), ffn);  // of a feed-forward
  const int64_t block = plus(plus(times(times(4, d), d), d), plus(maps, d));
  int64_t dense = plus(plus(times(options.vocabulary, d), d), times(options.layers, block));
  int64_t table = 0;
  if (const auto count = static_cast<int64_t>(memory_layers(options).size()); count > 0) {
    const MemoryCounts memory = count_memory(options.memory, d);
    dense = plus(dense, times(count, memory.dense));
    if (options.memory.placement == MemoryPlacement::replace) dense -= count * maps;
    table = times(options.memory.shared_table ? 1 : count, memory.table_elements);
  }
  if (options.has_ngram) {
    const int64_t count = options.ngram.tables_in(options.layers);
    const MemoryCounts ngram = count_ngram(options.ngram, d, options.vocabulary);
    dense = plus(dense, times(count, ngram.dense));
    table = plus(table, times(count, ngram.table_elements));
  }
  return {dense, table};
}

}  // namespace loci
