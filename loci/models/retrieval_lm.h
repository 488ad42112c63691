// A transformer language model with a retrieval memory behind its last norm: a prompt reads the best of its items, and
// what it reads is added to every position before the tied head.
//
// Legend: B sequences, P positions, d width, M items, L tokens of an item, A tokens of an answer.
//
//   h = the language model's last norm                                        [B, P, d]
//   logits = (h + r) embedding^T, r of nn/small/retrieval_memory.h from h at the positions of a query
//
// The model is causal and the query lies in the prompt, so r is the same while an answer is trained and decoded.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "loci/models/transformer_lm.h"
#include "loci/nn/small/retrieval_memory.h"

namespace loci {

class RetrievalLm : public TransformerLm {
 public:
  // Without a memory a language model as any other. The memory's vocabulary and width are the model's.
  RetrievalLm(TransformerLmOptions options, std::optional<RetrievalMemoryOptions> memory, uint64_t seed);

  // As TransformerLm::loss. items int64 [B, M, L], query bool [B, P]: the positions that the memory is asked with.
  // Without a memory neither is looked at.
  at::Tensor answer_loss(const at::Tensor& input, const at::Tensor& target, const at::Tensor& items,
                         const at::Tensor& query);

  struct Answers {
    at::Tensor tokens;  // int64 [B, A]; behind its end an answer is `end`
    at::Tensor weight;  // of the items [B, M]; undefined without a memory
  };
  // The likeliest token each time, A at most. prompt int64 [B, P]. Without gradients, in evaluation mode.
  Answers answer(const at::Tensor& prompt, const at::Tensor& items, const at::Tensor& query, int64_t tokens,
                 int64_t end);

  std::vector<NamedParameter> dense_parameters();
  bool has_retrieval() const { return retrieval_ != nullptr; }

 private:
  std::shared_ptr<RetrievalMemory> retrieval_;  // or none
};

}  // namespace loci
