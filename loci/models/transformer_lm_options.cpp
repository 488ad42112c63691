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

void check_memory(const TransformerLmOptions& options) {
  const MemoryOptions& m = options.memory;
  if (m.kind != "product_key" && m.kind != "flat") refuse("memory.kind must be product_key or flat", m.kind);
  if (m.layers.empty()) refuse("memory.layers must name at least one layer", "none");
  (void)memory_layers(options);
  check_at_least_one("memory.rows", m.rows);
  if (m.layer.width != 0 && m.layer.width != options.width) {
    refuse(fmt::format("memory.width must be 0 or the model's {}", options.width), std::to_string(m.layer.width));
  }
  if (m.value_dtype != "float32" && m.value_dtype != "bfloat16" && m.value_dtype != "int8") {
    refuse("memory.value_dtype must be float32, bfloat16 or int8", m.value_dtype);
  }
  if (m.value_start != "normal" && m.value_start != "zero") {
    refuse("memory.value_start must be normal or zero", m.value_start);
  }
  if (m.layer.zero_output && (m.value_start == "zero" || m.calibrate_at >= 0)) {
    refuse("only one factor may start at zero (values or output map), or nothing ever moves",
           "zero_output and zero values");
  }
  if (m.calibrate_at >= 0 && (m.kind != "product_key" || m.layer.query_net != "linear")) {
    refuse("memory.calibrate_at needs kind product_key and query_net linear",
           fmt::format("{} and {}", m.kind, m.layer.query_net));
  }
  if (m.calibrate_at >= 0 && m.calibrate_tokens < 2) {
    refuse("memory.calibrate_tokens must be at least 2", std::to_string(m.calibrate_tokens));
  }
}

}  // namespace

void MemoryOptions::fields(ConfigFields& f) {
  f.choice("kind", kind, "product keys, or a full search over one key for each row", {"product_key", "flat"});
  f.field("layers", layers, "layers that get a memory, from 0; negative numbers count from the end");
  f.field("shared_table", shared_table, "one table for all layers instead of one for each");
  f.choice("placement", placement, "in place of the feed-forward block, parallel to it, or after it",
           {{"replace", MemoryPlacement::replace},
            {"parallel", MemoryPlacement::parallel},
            {"after", MemoryPlacement::after}});
  f.field("rows", rows, "rows of a table", {.minimum = 1, .maximum = int64_t{1} << 48});
  f.field("value_width", value_width, "width of a row; 0: the model's", {.minimum = 0, .maximum = 1 << 20});
  f.choice("value_dtype", value_dtype, "type of the rows; int8 serves only (loci convert)",
           {"float32", "bfloat16", "int8"});
  f.choice<TableHome>("home", home, "where the rows are: in memory, or in a file that may be larger than memory",
                      {{"memory", TableHome::memory}, {"mapped", TableHome::mapped}});
  f.choice("value_start", value_start, "first values of the rows", {"normal", "zero"});
  f.field("calibrate_at", calibrate_at, "step at which queries and keys start again from the inputs; -1: never",
          {.minimum = -1, .maximum = int64_t{1} << 40});
  f.field("calibrate_tokens", calibrate_tokens, "tokens whose inputs are used to calibrate",
          {.minimum = 2, .maximum = int64_t{1} << 32});
  layer.fields(f);
}

c10::ScalarType value_type(const MemoryOptions& options) {
  if (options.value_dtype == "int8") return c10::ScalarType::Char;
  return options.value_dtype == "bfloat16" ? c10::ScalarType::BFloat16 : c10::ScalarType::Float;
}

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
  f.optional_section("memory", has_memory, memory);
}

std::vector<int64_t> memory_layers(const TransformerLmOptions& options) {
  std::vector<int64_t> result;
  if (!options.has_memory) return result;
  for (const int64_t layer : options.memory.layers) {
    const int64_t number = layer < 0 ? layer + options.layers : layer;
    if (number < 0 || number >= options.layers) {
      refuse(fmt::format("memory.layers must be within {} .. {}", -options.layers, options.layers - 1),
             std::to_string(layer));
    }
    result.push_back(number);
  }
  std::sort(result.begin(), result.end());
  const auto twice = std::adjacent_find(result.begin(), result.end());
  if (twice != result.end()) refuse("memory.layers must name each layer once", fmt::format("{} twice", *twice));
  return result;
}

void check_options(const TransformerLmOptions& options) {
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
  if (options.has_memory) check_memory(options);
}

int64_t resolved_ffn_width(const TransformerLmOptions& options) {
  return options.ffn_width == 0 ? 4 * options.width : options.ffn_width;
}

int64_t resolved_value_width(const TransformerLmOptions& options) {
  return options.memory.value_width == 0 ? options.width : options.memory.value_width;
}

std::pair<int64_t, int64_t> TransformerLm::count_parameters(const TransformerLmOptions& options) {
  check_options(options);
  const auto times = [](int64_t a, int64_t b) { return checked_product("model", "parameters", a, b); };
  const auto plus = [](int64_t a, int64_t b) { return checked_sum("model", "parameters", a, b); };
  const int64_t d = options.width, ffn = resolved_ffn_width(options);
  const int64_t block = plus(plus(times(4 * d, d), d), plus(times(2 * d, ffn), d));
  int64_t dense = plus(plus(times(options.vocabulary, d), d), times(options.layers, block));
  const std::vector<int64_t> layers = memory_layers(options);
  if (layers.empty()) return {dense, 0};

  const ProductKeyMemoryOptions& m = options.memory.layer;
  const int64_t value = resolved_value_width(options), rows = options.memory.rows;
  const int64_t features = times(m.heads, resolved_key_width(m, d));  // H * 2w
  int64_t memory = 0;
  if (m.query_net != "none") {
    int64_t width = d;
    for (const int64_t next : m.query_hidden) {
      memory = plus(memory, times(width + 1, next));
      width = next;
    }
    memory = plus(memory, times(width + 1, features));
  }
  if (m.query_norm != QueryNorm::none) memory = plus(memory, features);
  if (m.query_norm == QueryNorm::layer || m.query_norm == QueryNorm::batch) memory = plus(memory, features);
  if (m.normalise_keys) memory = plus(memory, m.heads);
  const auto [n1, n2] = sub_keys_for(rows);
  memory = plus(memory, options.memory.kind == "flat" ? times(features, rows) : times(features / 2, plus(n1, n2)));
  if (m.output != OutputMap::none) memory = plus(memory, plus(times(d, value), d));
  if (m.output == OutputMap::swilu) memory = plus(memory, times(d, value));
  if (options.memory.placement == MemoryPlacement::after) memory = plus(memory, d);

  const auto count = static_cast<int64_t>(layers.size());
  dense = plus(dense, times(count, memory));
  if (options.memory.placement == MemoryPlacement::replace) dense -= count * 2 * d * ffn;
  return {dense, times(options.memory.shared_table ? 1 : count, times(rows, value))};
}

}  // namespace loci
