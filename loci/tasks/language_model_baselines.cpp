// What counting reaches on the tokens that a language model was trained on.
#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "loci/base/stop_signal.h"
#include "loci/data/text/ngram_counts.h"
#include "loci/tasks/language_model.h"

namespace loci {
namespace {

constexpr const char* kMeaning = "no network: counted on the same tokens, modified Kneser-Ney smoothing";
constexpr const char* kStoppedCounting = "stopped while n-grams were counted";

}  // namespace

std::vector<Baseline> LanguageModelTask::baselines(int64_t steps) {
  if (masked()) return {};  // n-grams do not see what follows a token
  const int64_t tokens = tokens_in(steps);
  if (tokens > kMostCounted) {
    if (progress_ != nullptr) {
      progress_->finish(fmt::format("n-grams are not counted: the run has {} tokens, more than {}",
                                    format_count(static_cast<double>(tokens)), format_count(kMostCounted)));
    }
    return {};
  }
  if (progress_ != nullptr) progress_->show("counting n-grams");
  std::vector<Baseline> result;
  for (const auto& [order, name] : {std::pair(2, "counted bigrams"), std::pair(3, "counted trigrams")}) {
    const NgramCounts counts = counted_ngrams(order, steps);
    const TextLoss loss = loss_of(counts);
    result.push_back(
        {name, kMeaning, counts.distinct(), {{"loss", loss.per_token()}, {"bits_per_byte", loss.bits_per_byte()}}});
  }
  return result;
}

NgramCounts LanguageModelTask::counted_ngrams(int64_t order, int64_t steps) const {
  NgramCounts counts(order, tokens_.tokenizer.vocabulary());
  std::vector<int64_t> text(static_cast<size_t>(window_) + 1);
  for (int64_t position = -first_; position < steps * batch_.accumulation; ++position) {
    StopSignal::check(kStoppedCounting);
    const Batch batch = training_batch(position);
    const auto* const input = batch.input.const_data_ptr<int64_t>();
    const auto* const target = batch.target.const_data_ptr<int64_t>();
    for (int64_t window = 0; window < batch.input.numel(); window += window_) {
      std::copy_n(input + window, window_, text.begin());
      text.back() = target[window + window_ - 1];
      counts.add(text);
    }
  }
  counts.finish();
  return counts;
}

// On the tokens that evaluate() measures, with the history that the model has of each.
TextLoss LanguageModelTask::loss_of(const NgramCounts& counts) const {
  TextLoss loss;
  for (const int64_t index : evaluated_batches()) {
    StopSignal::check(kStoppedCounting);
    const Batch batch = validation_batch(index);
    const auto* const input = batch.input.const_data_ptr<int64_t>();
    const auto* const target = batch.target.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < batch.input.numel(); ++t) {
      if (target[t] < 0) continue;
      const int64_t in_window = t % window_ + 1;
      const std::span<const int64_t> history(input + t + 1 - in_window, static_cast<size_t>(in_window));
      loss.nats -= std::log(counts.probability(history, target[t]));
      loss.bytes += token_bytes_[static_cast<size_t>(target[t])];
      ++loss.tokens;
    }
  }
  return loss;
}

}  // namespace loci
