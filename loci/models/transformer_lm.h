// A transformer language model: pre-norm blocks, rotary positions, scaled-dot-product attention, tied embeddings,
// memories in place of, parallel to or after the feed-forward of chosen layers, and n-gram memories.
//
// Legend: B batch, L positions, d width, V vocabulary.
//
//   x = embedding[token]                                            [B, L, d]
//       an n-gram memory g at the embedding:  x = x + g(x)
//   per layer:  x = x + attention(norm(x))
//               replace:  x = x + m(norm(x))         parallel:  z = norm(x); x = x + f(z) + m(z)
//               after:    x = x + f(norm(x)); x = x + m(norm'(x))      norm' is the memory's own
//               an n-gram memory g:  gate     x = x + g(x) before the attention
//                                    sum, row  x = x + f(z) + g(z), whatever the memory m does
//   logits = norm(x) embedding^T                                    [B, L, V]
//
// A causal model sees of each position those before it and itself. The other kind sees all of the sequence, for masked
// language modelling and for classification; it has neither a cache nor n-gram memories.
//
// Norms are LayerNorm without bias: the framework has one fused CPU kernel each way for it, and none for RMSNorm.
// Linear layers have no bias. Under bfloat16 autocast linear layers and attention run in bfloat16; the residual stream,
// norms, softmax and loss stay float32.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/common.h>
#include <torch/nn/modules/container/any_value.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/memory/memory_slot.h"
#include "loci/nn/memory/ngram_slot.h"
#include "loci/optim/optimizer_set.h"

namespace loci {

// [model]
struct TransformerLmOptions {
  int64_t vocabulary = 0;    // from the tokenizer
  int64_t end_of_text = -1;  // the token that ends a document, from the tokenizer; -1: none. For n-gram memories
  int64_t layers = 2;
  int64_t width = 128;
  int64_t heads = 4;
  int64_t ffn_width = 0;  // 0: 4 * width
  int64_t context = 128;  // longest sequence
  double dropout = 0;
  bool causal = true;  // false: each position sees the whole sequence
  bool has_memory = false;
  MemoryOptions memory;
  bool has_ngram = false;
  NgramOptions ngram;
  void fields(ConfigFields& f);
};

// What generation needs of the positions seen so far. Keys are rotated already.
struct KeyValueCache {
  std::vector<at::Tensor> keys, values;  // a layer each: [B, heads, L, d / heads]
  at::Tensor tokens;                     // [B, up to n - 1]: the last ones, for n-gram memories of order n
  std::vector<at::Tensor> histories;     // an n-gram memory each: NgramMemory::forward
  int64_t length = 0;
};

class TransformerLm : public torch::nn::Module {
 public:
  // Parameters come by counter from (seed, name, position): matrices N(0, 0.02^2), those that write to the residual
  // stream divided by sqrt(2 * layers). Tables come from `tables` and are owned with shared ownership. Throws Error
  // (usage) for impossible options, (resources) for what cannot be had.
  TransformerLm(TransformerLmOptions options, uint64_t seed, const TableMaker& tables = make_local_table);

  // tokens [B, L] int64 -> logits [B, L, V] (float32). With a cache: the L new positions after cache->length. Positions
  // outside context.token_mask [B, L] are padding: none attends to them, save in a sequence of nothing else; of a
  // causal model they must stand behind the tokens of their sequence.
  at::Tensor forward(const at::Tensor& tokens, KeyValueCache* cache = nullptr, const BlockContext& context = {});
  // Mean cross-entropy in nats over the targets that are >= 0 (target -1: none). input, target [B, L] int64.
  // Chunked over tokens so that [B * L, V] float32 logits never stand twice (models/vocabulary_loss.h).
  at::Tensor loss(const at::Tensor& input, const at::Tensor& target, const BlockContext& context = {});

  const TransformerLmOptions& options() const { return options_; }
  // Dense parameters with names, decay and embedding flags for the optimiser; tables not among them.
  std::vector<NamedParameter> dense_parameters();
  std::vector<TablePtr> tables() const;  // each once
  // Memories with the number of their layer, ascending.
  std::vector<std::pair<int64_t, std::shared_ptr<MemoryLayer>>> memories() const;
  // N-gram memories with the number of their layer, ascending; -1: at the embedding.
  std::vector<std::pair<int64_t, std::shared_ptr<NgramMemory>>> ngrams() const;
  // Where documents begin in tokens [B, L], as far as these show it: behind a token that ends one.
  at::Tensor document_starts(const at::Tensor& tokens) const;
  // The rows [B, L, K] that each of them reads for these tokens [B, L], in ngrams() order: a pure function of the
  // tokens, so that any thread can compute it ahead.
  std::vector<at::Tensor> ngram_rows(const at::Tensor& tokens) const;
  // What memory `i` (in memories() order) receives for these tokens, [B * L, d]; no gradient, in evaluation mode.
  std::vector<at::Tensor> memory_inputs(const at::Tensor& tokens);

  // Copies parameters and buffers of a trained model, by name. Only a memory, an n-gram memory or one of `new_parts`,
  // such as "head.", may be missing, whole (insertion into a model without one); a memory that is inserted in place of
  // a feed-forward leaves its maps out. Unknown names and other shapes throw Error (input) in the name of `who`.
  void load(const std::map<std::string, at::Tensor>& state, const std::string& who = "TransformerLm",
            std::vector<std::string> new_parts = {});

  // Counts of parameters before anything is allocated: dense and table elements.
  static std::pair<int64_t, int64_t> count_parameters(const TransformerLmOptions& options);

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(static_cast<KeyValueCache*>(nullptr))},
                           {2, torch::nn::AnyValue(BlockContext())})

 protected:
  at::Tensor hidden(const at::Tensor& tokens, KeyValueCache* cache, const BlockContext& context,
                    std::vector<at::Tensor>* memory_inputs = nullptr);  // [B, L, d]
  const at::Tensor& embedding() const { return embedding_; }

 private:
  struct Layer;
  std::shared_ptr<Layer> make_layer(int64_t number, bool has_memory, bool has_ngram, uint64_t seed,
                                    const TableMaker& tables);
  std::vector<at::Tensor> next_ngram_rows(const at::Tensor& tokens, KeyValueCache* cache) const;

  TransformerLmOptions options_;
  at::Tensor embedding_;   // [V, d]
  at::Tensor final_norm_;  // [d]
  // [context, d / heads / 2] complex128: exp(i * position * frequency). No buffer: Module::to(dtype) would drop its
  // imaginary part. hidden() takes it to the parameters' device.
  at::Tensor rotation_;
  std::shared_ptr<NgramMemory> embedding_ngram_;  // or none
  std::vector<std::shared_ptr<Layer>> layers_;
  std::vector<TablePtr> tables_;
};

}  // namespace loci
