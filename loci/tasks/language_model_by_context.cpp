// Where a language model is good: its loss by how often training has shown the two tokens before a target.
#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "loci/base/stop_signal.h"
#include "loci/data/text/ngram_counts.h"
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

void LanguageModelTask::add_loss_by_context(int64_t steps, Account& account) {
  if (const int64_t tokens = tokens_in(steps); tokens > kMostCounted) {
    fail(ExitCode::usage, "--by-context",
         fmt::format("RUN must have at most {} training tokens, which are counted", format_count(kMostCounted)),
         format_count(static_cast<double>(tokens)));
  }
  const NgramCounts counts = counted_ngrams(3, steps);
  std::array<ContextClass, 5> classes = {{{"never", 0}, {"once", 1}, {"2 to 10", 10}, {"11 to 100", 100}, {"more", 0}}};
  for (const int64_t index : evaluated_batches()) {
    StopSignal::check("stopped while the model was evaluated");
    const Batch batch = validation_batch(index);
    const at::Tensor losses = losses_of(batch).first.to(at::kDouble).contiguous();
    const auto* const nats = losses.const_data_ptr<double>();
    const auto* const input = batch.input.const_data_ptr<int64_t>();
    const auto* const target = batch.target.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < batch.input.numel(); ++t) {
      const int64_t in_window = t % window_ + 1;
      if (target[t] < 0 || in_window < 2) continue;  // the model itself sees one token
      const std::span<const int64_t> history(input + t + 1 - in_window, static_cast<size_t>(in_window));
      const int64_t count = counts.count_of(history);
      auto* const found =
          std::find_if(classes.begin(), classes.end() - 1, [&](const auto& c) { return count <= c.most; });
      found->nats += nats[t];
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
