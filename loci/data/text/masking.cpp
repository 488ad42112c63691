#include "loci/data/text/masking.h"

#include "loci/base/check.h"
#include "loci/data/text/batches.h"

namespace loci {

void MaskingOptions::fields(ConfigFields& f) {
  f.field("share", share, "share of the tokens that are chosen, which the loss is of", {.minimum = 0.01, .maximum = 1});
  f.field("symbol", symbol, "share of the chosen tokens that the mask symbol replaces", {.minimum = 0, .maximum = 1});
  f.field("random", random, "share of them that a random token replaces; the others are kept",
          {.minimum = 0, .maximum = 1});
}

void MaskingOptions::check() const {
  if (symbol + random > 1) {
    fail(ExitCode::usage, "masking", "symbol + random must be at most 1", fmt::format("{} + {}", symbol, random));
  }
}

TokenMasking::TokenMasking(const MaskingOptions& options, int64_t vocabulary, uint64_t seed, const std::string& stream)
    : options_(options), vocabulary_(vocabulary), choice_(seed, stream), token_(seed, stream + " token") {}

int64_t TokenMasking::apply(int64_t position, int64_t count, int64_t* input, int64_t* target) const {
  int64_t chosen = 0;
  for (int64_t t = 0; t < count; ++t) {
    const bool is_token = target[t] >= 0;
    target[t] = EvaluationWindows::kNoTarget;
    if (!is_token) continue;
    const auto at = static_cast<uint64_t>(position + t);
    const double draw = choice_.uniform(at) / options_.share;  // below 1 for the chosen, and uniform among them
    if (draw >= 1) continue;
    ++chosen;
    target[t] = input[t];
    if (draw < options_.symbol) {
      input[t] = vocabulary_;
    } else if (draw < options_.symbol + options_.random) {
      input[t] = static_cast<int64_t>(token_.below(at, static_cast<uint64_t>(vocabulary_)));
    }
  }
  return chosen;
}

}  // namespace loci
