#include "loci/data/text/batches.h"

#include <algorithm>

#include "loci/base/check.h"
#include "loci/base/random.h"

namespace loci {
namespace {

void check_windows(int64_t window, int64_t batch) {
  if (window < 1) fail(ExitCode::usage, "batches", "window must be at least 1", fmt::to_string(window));
  if (batch < 1) fail(ExitCode::usage, "batches", "batch must be at least 1", fmt::to_string(batch));
}

// One window less than fit leaves room for every phase; a text of just one batch has only the phases of its rest.
int64_t training_windows(const TokenSpan& tokens, int64_t window, int64_t batch) {
  check_windows(window, batch);
  const int64_t least =
      checked_sum("batches", "batch x window + 1", checked_product("batches", "batch x window", batch, window), 1);
  if (tokens.size() < least) {
    fail(
        ExitCode::input, "batches",
        fmt::format("the training text must hold {} tokens, a batch of {} windows of {} and one", least, batch, window),
        fmt::to_string(tokens.size()));
  }
  return std::max(batch, (tokens.size() - 1) / window - 1);
}

}  // namespace

WindowSampler::WindowSampler(TokenSpan tokens, int64_t window, int64_t batch, uint64_t seed, int64_t micro_batches)
    : tokens_(tokens),
      window_(window),
      batch_(batch),
      seed_(seed),
      micro_batches_(micro_batches),
      order_(training_windows(tokens, window, batch), seed),
      phases_(std::min(window, tokens.size() - order_.items() * window)) {
  if (micro_batches < 1) {
    fail(ExitCode::usage, "batches", "micro_batches must be at least 1", fmt::to_string(micro_batches));
  }
}

void WindowSampler::fill(int64_t step, int64_t micro, int64_t* input, int64_t* target) const {
  if (step < 0 || micro < 0 || micro >= micro_batches_) {
    fail(ExitCode::bug, "batches", fmt::format("step must be at least 0 and micro in 0 .. {}", micro_batches_ - 1),
         fmt::format("{} and {}", step, micro));
  }
  for (int64_t b = 0; b < batch_; ++b) {
    const EpochOrder::Visit visit = order_.at((step * micro_batches_ + micro) * batch_ + b);
    const uint64_t phase =
        CounterRandom(seed_, "window phase").below(static_cast<uint64_t>(visit.epoch), static_cast<uint64_t>(phases_));
    const int64_t begin = static_cast<int64_t>(phase) + visit.item * window_;
    tokens_.copy(begin, window_, input + b * window_);
    tokens_.copy(begin + 1, window_, target + b * window_);
  }
}

EvaluationWindows::EvaluationWindows(TokenSpan tokens, int64_t window, int64_t batch)
    : tokens_(tokens), window_(window), batch_(batch), windows_(0) {
  check_windows(window, batch);
  if (tokens.size() < 2) {
    fail(ExitCode::input, "batches", "the validation text must hold at least 2 tokens", fmt::to_string(tokens.size()));
  }
  windows_ = (tokens.size() - 1 + window - 1) / window;
}

int64_t EvaluationWindows::fill(int64_t index, int64_t* input, int64_t* target) const {
  if (index < 0 || index >= batches()) {
    fail(ExitCode::bug, "batches", fmt::format("index must be in 0 .. {}", batches() - 1), fmt::to_string(index));
  }
  std::fill_n(input, batch_ * window_, 0);
  std::fill_n(target, batch_ * window_, kNoTarget);
  int64_t valid = 0;
  for (int64_t b = 0; b < batch_ && index * batch_ + b < windows_; ++b) {
    const int64_t begin = (index * batch_ + b) * window_;
    const int64_t count = std::min(window_, tokens_.size() - 1 - begin);
    tokens_.copy(begin, count, input + b * window_);
    tokens_.copy(begin + 1, count, target + b * window_);
    valid += count;
  }
  return valid;
}

}  // namespace loci
