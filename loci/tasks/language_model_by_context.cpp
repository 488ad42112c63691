// Where a language model is good: its loss by how often training has shown the two tokens before a target.
//
// Legend: B windows, L positions of a window, V vocabulary.
#include <ATen/ops/cat.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "loci/base/stop_signal.h"
#include "loci/data/text/ngram_counts.h"
#include "loci/models/vocabulary_loss.h"
#include "loci/nn/evaluation_scope.h"
#include "loci/tasks/language_model.h"

namespace loci {
namespace {

struct ContextClass {
  const char* name;
  int64_t most;  // occurrences of the two tokens in training
  double nats = 0, counted_nats = 0;
  int64_t tokens = 0;
};

}  // namespace

std::pair<at::Tensor, at::Tensor> LanguageModelTask::losses_of(const Batch& batch) {
  const EvaluationScope evaluation(*model_);
  const int64_t logits = batch.input.size(1) * model_->options().vocabulary;  // of a window
  const int64_t at_once = std::max<int64_t>(1, vocabulary_loss_logits(model_->options().vocabulary) / logits);
  std::vector<at::Tensor> nats, likeliest;
  for (int64_t begin = 0; begin < batch.input.size(0); begin += at_once) {
    const int64_t end = std::min(begin + at_once, batch.input.size(0));
    const at::Tensor target = batch.target.slice(0, begin, end);
    const at::Tensor scores = model_->forward(batch.input.slice(0, begin, end));  // [B, L, V]
    const at::Tensor chosen = target.clamp_min(0).unsqueeze(-1);
    nats.push_back(at::log_softmax(scores, -1).gather(-1, chosen).squeeze(-1).neg().mul(target.ge(0)));
    likeliest.push_back(scores.argmax(-1).eq(target));
  }
  return {at::cat(nats), at::cat(likeliest)};
}

void LanguageModelTask::add_loss_by_context(int64_t steps, Account& account) {
  const NgramCounts counts = counted_ngrams(3, steps);
  std::array<ContextClass, 5> classes = {{{"never", 0}, {"once", 1}, {"2 to 10", 10}, {"11 to 100", 100}, {"more", 0}}};
  for (const int64_t index : evaluated_batches()) {
    StopSignal::check("stopped while the model was evaluated");
    const Batch batch = validation_batch(index);
    const at::Tensor nats = losses_of(batch).first;
    const auto* const input = batch.input.const_data_ptr<int64_t>();
    const auto* const target = batch.target.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < batch.input.numel(); ++t) {
      const int64_t in_window = t % window_ + 1;
      if (target[t] < 0 || in_window < 2) continue;  // the model itself sees one token
      const std::span<const int64_t> history(input + t + 1 - in_window, static_cast<size_t>(in_window));
      const int64_t count = counts.count_of(history);
      auto* const found =
          std::find_if(classes.begin(), classes.end() - 1, [&](const auto& c) { return count <= c.most; });
      found->nats += nats.view({-1})[t].item<double>();
      found->counted_nats -= std::log(counts.probability(history, target[t]));
      ++found->tokens;
    }
  }
  int64_t tokens = 0;
  for (const ContextClass& c : classes) tokens += c.tokens;
  account.text += "two tokens before  share of targets   loss  counted trigrams\n";
  for (const ContextClass& c : classes) {
    if (c.tokens == 0) continue;
    const auto count = static_cast<double>(c.tokens);
    account.text += fmt::format("{:17}  {:14.1f} %  {:5.3f}  {:16.3f}\n", c.name,
                                100 * count / static_cast<double>(tokens), c.nats / count, c.counted_nats / count);
    account.json["by_context"].push_back({{"seen", c.name},
                                          {"tokens", c.tokens},
                                          {"loss", c.nats / count},
                                          {"counted_trigrams", c.counted_nats / count}});
  }
}

}  // namespace loci
