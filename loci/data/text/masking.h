// Masked language modelling (Devlin et al. 2019, "BERT", section 3.1): tokens are chosen by chance, most of them hidden
// behind a symbol, and the model says what they were.
//
//   chosen with probability `share`; of the chosen the share `symbol` becomes the mask symbol, the share `random` a
//   random token of the tokenizer, and the others stay as they are
//
// What happens to a token follows from seed, stream and the token's position alone. The mask symbol is a token of its
// own, the one behind the tokenizer's.
#pragma once

#include <cstdint>
#include <string>

#include "loci/base/config_fields.h"
#include "loci/base/random.h"

namespace loci {

// [masking]
struct MaskingOptions {
  double share = 0.15;
  double symbol = 0.8;
  double random = 0.1;
  void fields(ConfigFields& f);
  // Throws Error (usage) for shares that do not fit each other.
  void check() const;
};

class TokenMasking {
 public:
  // `vocabulary`: the tokenizer's, at least 1; the mask symbol is the token of this number.
  TokenMasking(const MaskingOptions& options, int64_t vocabulary, uint64_t seed, const std::string& stream);

  int64_t symbol() const { return vocabulary_; }
  // Of `count` tokens, the first at `position` of the stream: chosen ones are masked in `input`, and `target` becomes
  // what they were; EvaluationWindows::kNoTarget elsewhere. Where `target` is < 0 already there is no token to choose.
  // Returns how many were chosen.
  int64_t apply(int64_t position, int64_t count, int64_t* input, int64_t* target) const;

 private:
  MaskingOptions options_;
  int64_t vocabulary_;
  CounterRandom choice_, token_;
};

}  // namespace loci
