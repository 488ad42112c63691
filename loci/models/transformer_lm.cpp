// Legend: B batch, L positions, d width, V vocabulary, h heads, e = d / h.
#include "loci/models/transformer_lm.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/polar.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>
#include <torch/nn/modules/container/modulelist.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "loci/base/check.h"
#include "loci/models/load_state.h"
#include "loci/models/transformer_lm_options.h"
#include "loci/models/vocabulary_loss.h"
#include "loci/nn/dropout.h"
#include "loci/nn/evaluation_scope.h"
#include "loci/nn/initialise.h"
#include "loci/ops/few_linear/few_linear.h"

namespace loci {
namespace {

using at::Tensor;

constexpr double kLayerNormEpsilon = 1e-5;
constexpr double kStartStd = 0.02;

Tensor layer_normed(const Tensor& x, const Tensor& gain) {
  return at::layer_norm(x, {x.size(-1)}, gain, {}, kLayerNormEpsilon);
}

// exp(i * position / 10000^(2 j / e)), complex [context, e / 2] (Su et al. 2021, "RoFormer").
Tensor rotation_table(int64_t context, int64_t head_width) {
  const auto options = at::TensorOptions(at::kDouble);
  const Tensor frequency = at::pow(1e4, at::arange(0, head_width, 2, options) / static_cast<double>(-head_width));
  const Tensor angle = at::outer(at::arange(context, options), frequency);
  return at::polar(at::ones_like(angle), angle);
}

// What every position of a sequence may attend to, [B, 1, 1, L]; undefined: all. A sequence of padding alone sees
// itself: softmax over nothing would be NaN.
Tensor seen_positions(const Tensor& token_mask, const Tensor& tokens) {
  if (!token_mask.defined()) return {};
  TORCH_CHECK(token_mask.scalar_type() == at::kBool && token_mask.sizes() == tokens.sizes(),
              "TransformerLm: token_mask must be bool ", tokens.sizes(), " like tokens, got ", token_mask.scalar_type(),
              " ", token_mask.sizes());
  return token_mask.logical_or(token_mask.any(1, true).logical_not()).unsqueeze(1).unsqueeze(1);
}

}  // namespace

struct TransformerLm::Layer : torch::nn::Module {
  Tensor attention_norm, attention_in, attention_out;  // [d], [3d, d], [d, d]
  Tensor ffn_norm, ffn_in, ffn_out;                    // [d], [ffn, d], [d, ffn]; undefined maps: the memory replaces
  Tensor memory_norm;                                  // [d], placement after
  std::shared_ptr<MemoryLayer> memory;                 // or none
  std::shared_ptr<NgramMemory> ngram;                  // or none
  int64_t number = 0, heads = 0;
  bool causal = true;

  Tensor ffn(const Tensor& z) const { return linear_map(at::gelu(linear_map(z, ffn_in)), ffn_out); }

  // z [B, L, d], rotation [L, 1, 1, e / 2], seen bool [B, 1, 1, L] or undefined (all) -> [B, L, d].
  Tensor attention(const Tensor& z, const Tensor& rotation, const Tensor& seen, KeyValueCache* cache) const {
    const int64_t batch = z.size(0), length = z.size(1), width = z.size(2), head_width = width / heads;
    const Tensor mixed = linear_map(z, attention_in);  // [B, L, 3d]
    const auto parts = mixed.split_with_sizes({2 * width, width}, -1);
    const Tensor exact = parts[0].to(rotation.scalar_type() == at::kComplexDouble ? at::kDouble : at::kFloat);
    const Tensor rotated =
        at::view_as_real(at::view_as_complex(exact.view({batch, length, 2, heads, head_width / 2, 2})) * rotation);
    const auto query_key = rotated.view({batch, length, 2, heads, head_width}).to(mixed.scalar_type()).unbind(2);
    const Tensor query = query_key[0].transpose(1, 2);  // [B, h, L, e]
    Tensor key = query_key[1].transpose(1, 2);
    Tensor value = parts[1].view({batch, length, heads, head_width}).transpose(1, 2);
    Tensor mask = seen;
    if (cache != nullptr) {
      const auto slot = static_cast<size_t>(number);
      if (cache->length > 0) {
        key = at::cat({cache->keys[slot], key}, 2);
        value = at::cat({cache->values[slot], value}, 2);
        if (length > 1) {
          const auto position = at::TensorOptions(at::kLong);
          mask = at::arange(cache->length + length, position) <=
                 at::arange(cache->length, cache->length + length, position).unsqueeze(1);
        }
      }
      cache->keys[slot] = key;
      cache->values[slot] = value;
    }
    const auto optional_mask = mask.defined() ? std::optional<Tensor>(mask) : std::nullopt;
    const Tensor read = at::scaled_dot_product_attention(query, key, value, optional_mask, 0.0,
                                                         causal && length > 1 && !mask.defined());
    return linear_map(read.transpose(1, 2).reshape({batch, length, width}), attention_out);
  }
};

TransformerLm::TransformerLm(TransformerLmOptions options, uint64_t seed, const TableMaker& tables)
    : torch::nn::Module("TransformerLm"), options_(std::move(options)) {
  check_model_options(options_);
  const int64_t d = options_.width;
  embedding_ = register_parameter("embedding", normal_start(seed, "embedding", {options_.vocabulary, d}, kStartStd));
  if (options_.has_ngram && options_.ngram.at == NgramPlace::embedding) {
    embedding_ngram_ =
        register_module("ngram", make_ngram(options_.ngram, "", d, options_.vocabulary, seed, tables, tables_));
  }
  const std::vector<int64_t> with_memory = memory_layers(options_), with_ngram = ngram_layers(options_);
  const auto has = [](const std::vector<int64_t>& numbers, int64_t layer) {
    return std::find(numbers.begin(), numbers.end(), layer) != numbers.end();
  };
  const auto list = register_module("layers", torch::nn::ModuleList());
  for (int64_t i = 0; i < options_.layers; ++i) {
    layers_.push_back(make_layer(i, has(with_memory, i), has(with_ngram, i), seed, tables));
    list->push_back(layers_.back());
  }
  final_norm_ = register_parameter("final_norm", at::ones({d}));
  rotation_ = rotation_table(options_.context, d / options_.heads);
}

std::shared_ptr<TransformerLm::Layer> TransformerLm::make_layer(int64_t number, bool has_memory, bool has_ngram,
                                                                uint64_t seed, const TableMaker& tables) {
  const int64_t d = options_.width, ffn = resolved_ffn_width(options_);
  const double residual_std = kStartStd / std::sqrt(2.0 * static_cast<double>(options_.layers));
  const std::string prefix = fmt::format("layers.{}.", number);
  const auto layer = std::make_shared<Layer>();
  const auto matrix = [&](const char* name, int64_t rows, int64_t columns, double std) {
    return layer->register_parameter(name, normal_start(seed, prefix + name, {rows, columns}, std));
  };
  layer->number = number;
  layer->heads = options_.heads;
  layer->causal = options_.causal;
  layer->attention_norm = layer->register_parameter("attention_norm", at::ones({d}));
  layer->attention_in = matrix("attention_in", 3 * d, d, kStartStd);
  layer->attention_out = matrix("attention_out", d, d, residual_std);
  layer->ffn_norm = layer->register_parameter("ffn_norm", at::ones({d}));
  if (!has_memory || options_.memory.placement != MemoryPlacement::replace) {
    layer->ffn_in = matrix("ffn_in", ffn, d, kStartStd);
    layer->ffn_out = matrix("ffn_out", d, ffn, residual_std);
  }
  if (has_ngram) {
    layer->ngram = layer->register_module(
        "ngram", make_ngram(options_.ngram, prefix, d, options_.vocabulary, seed, tables, tables_));
  }
  if (!has_memory) return layer;
  if (options_.memory.placement == MemoryPlacement::after) {
    layer->memory_norm = layer->register_parameter("memory_norm", at::ones({d}));
  }
  layer->memory = layer->register_module("memory", make_memory(options_.memory, prefix, d, seed, tables, tables_));
  return layer;
}

Tensor TransformerLm::hidden(const Tensor& tokens, KeyValueCache* cache, const BlockContext& context,
                             std::vector<Tensor>* memory_inputs) {
  TORCH_CHECK(tokens.dim() == 2 && tokens.scalar_type() == at::kLong,
              "TransformerLm: tokens must be int64 [B, L], got ", tokens.scalar_type(), " ", tokens.sizes());
  const int64_t length = tokens.size(1), start = cache != nullptr ? cache->length : 0;
  TORCH_CHECK(start + length <= options_.context, "TransformerLm: tokens must be at most ", options_.context,
              " with those in the cache (context), got ", start + length);
  TORCH_CHECK(cache == nullptr || options_.causal, "TransformerLm: a cache needs a causal model, got causal = false");
  if (cache != nullptr && start == 0) {
    cache->keys.assign(layers_.size(), {});
    cache->values.assign(layers_.size(), {});
    cache->tokens = tokens.narrow(1, 0, 0);
    cache->histories.assign(ngrams().size(), {});
  }
  const auto complex = embedding_.scalar_type() == at::kDouble ? at::kComplexDouble : at::kComplexFloat;
  const auto like_parameters = embedding_.options().dtype(complex);
  const Tensor rotation = rotation_.narrow(0, start, length).to(like_parameters).unsqueeze(1).unsqueeze(1);

  const Tensor seen = options_.causal ? Tensor() : seen_positions(context.token_mask, tokens);
  const auto drop = [&](const Tensor& x) { return dropout(x, options_.dropout, is_training(), context); };
  const std::vector<Tensor> ngram_rows = next_ngram_rows(tokens, cache);
  size_t ngram = 0;
  const auto addressed = [&](NgramMemory& memory, const Tensor& input) {
    Tensor* history = cache != nullptr ? &cache->histories[ngram] : nullptr;
    return memory.forward(input, ngram_rows[ngram++], context, history);
  };
  Tensor x = at::embedding(embedding_, tokens);  // [B, L, d]
  if (embedding_ngram_) x = x + addressed(*embedding_ngram_, x);
  x = drop(x);
  for (const auto& layer : layers_) {
    const bool gated = layer->ngram && layer->ngram->options().injection == NgramInjection::gate;
    if (gated) x = x + addressed(*layer->ngram, x);
    x = x + drop(layer->attention(layer_normed(x, layer->attention_norm), rotation, seen, cache));
    const Tensor z = layer_normed(x, layer->ffn_norm);
    if (layer->ffn_in.defined()) x = x + drop(layer->ffn(z));
    if (layer->ngram && !gated) x = x + addressed(*layer->ngram, z);
    if (!layer->memory) continue;
    const Tensor input = layer->memory_norm.defined() ? layer_normed(x, layer->memory_norm) : z;
    if (memory_inputs != nullptr) memory_inputs->push_back(input.reshape({-1, options_.width}));
    x = x + layer->memory->forward(input, context);
  }
  if (cache != nullptr) cache->length += length;
  return layer_normed(x, final_norm_);
}

Tensor TransformerLm::forward(const Tensor& tokens, KeyValueCache* cache, const BlockContext& context) {
  const Tensor logits = linear_map(hidden(tokens, cache, context), embedding_);
  return logits.to(embedding_.scalar_type());
}

Tensor TransformerLm::loss(const Tensor& input, const Tensor& target, const BlockContext& context) {
  TORCH_CHECK(input.sizes() == target.sizes(), "TransformerLm: target must be ", input.sizes(), " like input, got ",
              target.sizes());
  Tensor x = hidden(input, nullptr, context).view({input.numel(), options_.width});
  Tensor goal = target.reshape({input.numel()});
  if (!options_.causal) {  // few positions have a target, and logits are most of the work
    const Tensor asked = goal.ge(0).nonzero().squeeze(1);
    x = x.index_select(0, asked);
    goal = goal.index_select(0, asked);
  }
  return vocabulary_loss(x, embedding_, goal);
}

std::vector<NamedParameter> TransformerLm::dense_parameters() {
  std::vector<NamedParameter> result;
  for (const auto& parameter : named_parameters()) {
    // Matrices decay; gains, biases and keys (three dimensions) do not.
    result.push_back({.name = parameter.key(),
                      .value = parameter.value(),
                      .decay = parameter.value().dim() == 2,
                      .embedding = parameter.key() == "embedding"});
  }
  return result;
}

std::vector<TablePtr> TransformerLm::tables() const {
  return tables_;
}

std::vector<std::pair<int64_t, std::shared_ptr<MemoryLayer>>> TransformerLm::memories() const {
  std::vector<std::pair<int64_t, std::shared_ptr<MemoryLayer>>> result;
  for (const auto& layer : layers_) {
    if (layer->memory) result.emplace_back(layer->number, layer->memory);
  }
  return result;
}

std::vector<std::pair<int64_t, std::shared_ptr<NgramMemory>>> TransformerLm::ngrams() const {
  std::vector<std::pair<int64_t, std::shared_ptr<NgramMemory>>> result;
  if (embedding_ngram_) result.emplace_back(-1, embedding_ngram_);
  for (const auto& layer : layers_) {
    if (layer->ngram) result.emplace_back(layer->number, layer->ngram);
  }
  return result;
}

Tensor TransformerLm::document_starts(const Tensor& tokens) const {
  return at::constant_pad_nd(tokens.eq(options_.end_of_text), {1, -1}, false);
}

std::vector<Tensor> TransformerLm::ngram_rows(const Tensor& tokens) const {
  std::vector<Tensor> result;
  if (!options_.has_ngram) return result;
  const Tensor starts = document_starts(tokens);
  for (const auto& [layer, memory] : ngrams()) result.push_back(memory->rows(tokens, starts));
  return result;
}

// The rows of the new tokens, which depend on the last tokens of the cache; these become the newest ones.
std::vector<Tensor> TransformerLm::next_ngram_rows(const Tensor& tokens, KeyValueCache* cache) const {
  if (cache == nullptr || !options_.has_ngram) return ngram_rows(tokens);
  const Tensor all = at::cat({cache->tokens, tokens}, 1);
  std::vector<Tensor> rows = ngram_rows(all);
  for (Tensor& one : rows) one = one.narrow(1, cache->tokens.size(1), tokens.size(1));
  const int64_t kept = std::min(all.size(1), ngrams().front().second->addresses().longest() - 1);
  cache->tokens = all.narrow(1, all.size(1) - kept, kept);
  return rows;
}

std::vector<Tensor> TransformerLm::memory_inputs(const Tensor& tokens) {
  const at::NoGradGuard guard;
  const EvaluationScope evaluation(*this);
  std::vector<Tensor> result;
  hidden(tokens, nullptr, {}, &result);
  return result;
}

void TransformerLm::load(const std::map<std::string, Tensor>& state, const std::string& who,
                         std::vector<std::string> new_parts) {
  std::map<std::string, Tensor> wanted = state;
  for (const auto& layer : layers_) {
    const std::string prefix = fmt::format("layers.{}.", layer->number);
    const auto next = state.lower_bound(prefix + "memory");
    const bool has_memory = next != state.end() && next->first.starts_with(prefix + "memory");
    if (layer->ffn_in.defined() || has_memory) continue;
    for (const char* map : {"ffn_in", "ffn_out"}) wanted.erase(prefix + map);  // the new memory replaces them
  }
  new_parts.insert(new_parts.end(), {".memory", ".ngram."});
  load_state(who, *this, wanted, [&](const std::string& name) -> std::string {
    for (const std::string& part : new_parts) {
      if (const size_t at = name.find(part); at != std::string::npos) return name.substr(0, at + part.size());
    }
    return "";
  });
}

}  // namespace loci
