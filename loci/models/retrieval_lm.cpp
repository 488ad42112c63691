// Legend: B sequences, P positions, d width, M items.
#include "loci/models/retrieval_lm.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>

#include <utility>

#include "loci/models/vocabulary_loss.h"
#include "loci/nn/evaluation_scope.h"
#include "loci/ops/few_linear/few_linear.h"

namespace loci {

using at::Tensor;

RetrievalLm::RetrievalLm(TransformerLmOptions options, std::optional<RetrievalMemoryOptions> memory, uint64_t seed)
    : TransformerLm(std::move(options), seed) {
  TORCH_CHECK(this->options().causal, "RetrievalLm: the model must be causal, got causal = false");
  if (!memory) return;
  memory->vocabulary = this->options().vocabulary;
  memory->width = this->options().width;
  retrieval_ = register_module("retrieval", std::make_shared<RetrievalMemory>("retrieval", *memory, seed));
}

Tensor RetrievalLm::answer_loss(const Tensor& input, const Tensor& target, const Tensor& items, const Tensor& query) {
  TORCH_CHECK(input.sizes() == target.sizes(), "RetrievalLm: target must be ", input.sizes(), " like input, got ",
              target.sizes());
  Tensor x = hidden(input, nullptr, {});
  if (retrieval_) x = retrieval_->forward(x, items, query);
  return vocabulary_loss(x.view({input.numel(), options().width}), embedding(), target.reshape({input.numel()}));
}

RetrievalLm::Answers RetrievalLm::answer(const Tensor& prompt, const Tensor& items, const Tensor& query, int64_t tokens,
                                         int64_t end) {
  TORCH_CHECK(prompt.dim() == 2 && prompt.size(1) > 0 && tokens > 0,
              "RetrievalLm: prompt must be [B, P] with P >= 1, for one token or more, got ", prompt.sizes(), " for ",
              tokens);
  const at::NoGradGuard guard;
  const EvaluationScope evaluation(*this);
  KeyValueCache cache;
  Answers answers;
  Tensor x = hidden(prompt, &cache, {});  // [B, P, d]
  Retrieval found;
  if (retrieval_) found = retrieval_->retrieve(x, items, query);
  answers.weight = found.weight;
  std::vector<Tensor> made;
  Tensor ended;
  while (true) {
    Tensor last = x.select(1, -1);
    if (found.added.defined()) last = last + found.added;
    Tensor next = linear_map(last, embedding()).argmax(-1);  // [B]
    if (ended.defined()) next = next.masked_fill(ended, end);
    ended = next.eq(end);
    made.push_back(next);
    if (static_cast<int64_t>(made.size()) == tokens || ended.all().item<bool>()) break;
    x = hidden(next.unsqueeze(1), &cache, {});
  }
  answers.tokens = at::stack(made, 1);
  return answers;
}

std::vector<NamedParameter> RetrievalLm::dense_parameters() {
  std::vector<NamedParameter> parameters = TransformerLm::dense_parameters();
  for (NamedParameter& parameter : parameters) {
    if (parameter.name == "retrieval.embedding") parameter.embedding = true;
  }
  return parameters;
}

}  // namespace loci
