// A decoder-only language model: pre-norm blocks, rotary positions, scaled-dot-product attention, tied embeddings, and
// memories in place of, parallel to or after the feed-forward of chosen layers.
//
// Legend: B batch, L positions, d width, V vocabulary.
//
//   x = embedding[token]                                            [B, L, d]
//   per layer:  x = x + attention(norm(x))
//               replace:  x = x + m(norm(x))         parallel:  z = norm(x); x = x + f(z) + m(z)
//               after:    x = x + f(norm(x)); x = x + m(norm'(x))      norm' is the memory's own
//   logits = norm(x) embedding^T                                    [B, L, V]
//
// Norms are LayerNorm without bias: the framework has one fused CPU kernel each way for it, and none for RMSNorm.
// Linear layers have no bias. Under bfloat16 autocast linear layers and attention run in bfloat16; the residual stream,
// norms, softmax and loss stay float32.
#pragma once

#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/memory/calibrate.h"
#include "loci/nn/memory/flat_key_memory.h"
#include "loci/nn/memory/product_key_memory.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/table_maker.h"

namespace loci {

enum class MemoryPlacement { replace, parallel, after };

// [model.memory]
struct MemoryOptions {
  std::string kind = "product_key";  // "product_key" | "flat"
  std::vector<int64_t> layers;       // 0-based; negative counts from the end; one table each unless shared
  bool shared_table = false;
  MemoryPlacement placement = MemoryPlacement::parallel;
  int64_t rows = 16384;
  int64_t value_width = 0;              // 0: the model's width
  std::string value_dtype = "float32";  // "float32" | "bfloat16" | "int8" (`loci convert` alone makes it)
  TableHome home = TableHome::memory;   // "memory" | "mapped": in a file, where a table may be larger than memory
  std::string value_start = "normal";   // "normal" (std D^-1/2) | "zero"
  int64_t calibrate_at = -1;            // step at which each memory starts again from its inputs; -1: never
  int64_t calibrate_tokens = 8192;
  ProductKeyMemoryOptions layer;  // its fields stand directly in [model.memory]
  void fields(ConfigFields& f);
};

// [model]
struct TransformerLmOptions {
  int64_t vocabulary = 0;  // from the tokenizer
  int64_t layers = 2;
  int64_t width = 128;
  int64_t heads = 4;
  int64_t ffn_width = 0;  // 0: 4 * width
  int64_t context = 128;  // longest sequence
  double dropout = 0;
  bool has_memory = false;
  MemoryOptions memory;
  void fields(ConfigFields& f);
};

// Keys and values of the positions seen so far, for generation. Keys are rotated already.
struct KeyValueCache {
  std::vector<at::Tensor> keys, values;  // a layer each: [B, heads, L, d / heads]
  int64_t length = 0;
};

class TransformerLm : public torch::nn::Module {
 public:
  // Parameters come by counter from (seed, name, position): matrices N(0, 0.02^2), those that write to the residual
  // stream divided by sqrt(2 * layers). Tables come from `tables` and are owned with shared ownership. Throws Error
  // (usage) for impossible options, (resources) for what cannot be had.
  TransformerLm(TransformerLmOptions options, uint64_t seed, const TableMaker& tables = make_local_table);

  // tokens [B, L] int64 -> logits [B, L, V] (float32). With a cache: the L new positions after cache->length.
  at::Tensor forward(const at::Tensor& tokens, KeyValueCache* cache = nullptr, const BlockContext& context = {});
  // Mean cross-entropy in nats over the targets that are >= 0 (target -1: none). input, target [B, L] int64.
  // Chunked over tokens so that [B * L, V] float32 logits never stand twice (models/vocabulary_loss.h).
  at::Tensor loss(const at::Tensor& input, const at::Tensor& target, const BlockContext& context = {});

  const TransformerLmOptions& options() const { return options_; }
  // Dense parameters with names, decay flags and rate factors for the optimiser; tables not among them.
  std::vector<NamedParameter> dense_parameters();
  std::vector<TablePtr> tables() const;  // each once
  // Product-key memories with the number of their layer (flat ones have counters of their own).
  std::vector<std::pair<int64_t, std::shared_ptr<ProductKeyMemory>>> memories() const;
  std::vector<std::pair<int64_t, std::shared_ptr<FlatKeyMemory>>> flat_memories() const;
  // What memory `i` (in memories() order) receives for these tokens, [B * L, d]; no gradient, in evaluation mode,
  // nothing is counted.
  std::vector<at::Tensor> memory_inputs(const at::Tensor& tokens);

  // Copies parameters and buffers of a trained model, by name. Only names below a memory may be missing (insertion into
  // a model without one); unknown names and other shapes throw Error (input).
  void load(const std::map<std::string, at::Tensor>& state);

  // Counts of parameters before anything is allocated: dense and table elements.
  static std::pair<int64_t, int64_t> count_parameters(const TransformerLmOptions& options);

 private:
  struct Layer;
  void add_memory(Layer& layer, const std::string& prefix, uint64_t seed, const TableMaker& tables);
  at::Tensor hidden(const at::Tensor& tokens, KeyValueCache* cache, const BlockContext& context,
                    std::vector<at::Tensor>* memory_inputs = nullptr);  // [B, L, d]
  at::Tensor drop(const at::Tensor& x, const BlockContext& context) const;

  TransformerLmOptions options_;
  at::Tensor embedding_;   // [V, d]
  at::Tensor final_norm_;  // [d]
  at::Tensor rotation_;    // [context, d / heads / 2] complex: exp(i * position * frequency)
  std::vector<std::shared_ptr<Layer>> layers_;
  std::vector<TablePtr> tables_;
};

}  // namespace loci
