// A transformer language model whose output is classes of a text: one position, or the mean of all, and a linear layer.
// It has the names of the language model's parameters and tables, so that the weights of one start the other.
//
// Legend: B texts, L positions, d width, C classes.
//
//   h = the language model's last norm                                                     [B, L, d]
//   p = mean of h over a text's tokens | h at its first token | h at its last token        [B, d]
//   logits = p W^T + b                                                                     [B, C]
#pragma once

#include <map>
#include <memory>
#include <string>

#include "loci/models/transformer_lm.h"

namespace loci {

// The last token of a causal model has seen the whole text, and its first one nothing.
enum class TextPooling { mean, first, last };

class TextClassifier : public TransformerLm {
 public:
  // W as N(0, 0.02^2) by counter, b = 0; the rest as TransformerLm. Throws Error (usage).
  TextClassifier(TransformerLmOptions options, TextPooling pooling, int64_t classes, uint64_t seed,
                 const TableMaker& tables = make_local_table);

  // tokens [B, L] int64; context.token_mask [B, L]: the tokens of each text, at least one, before its padding.
  // Undefined: all are. Returns logits [B, C] (float32).
  at::Tensor classify(const at::Tensor& tokens, const BlockContext& context = {});

  // As TransformerLm::load; W and b may be missing too, together.
  void load(const std::map<std::string, at::Tensor>& state, const std::string& who = "TextClassifier");

  // Dense parameters of W and b.
  static int64_t count_head(int64_t width, int64_t classes);

 private:
  struct Head;
  TextPooling pooling_;
  std::shared_ptr<Head> head_;
};

}  // namespace loci
