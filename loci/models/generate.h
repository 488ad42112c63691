// Text, token by token, from a language model with a key-value cache.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "loci/models/transformer_lm.h"

namespace loci {

struct GenerateOptions {
  int64_t tokens = 100;    // new ones
  double temperature = 1;  // 0: always the likeliest (equal: the lowest token)
  int64_t top_k = 0;       // sample among the likeliest; 0: all
  uint64_t seed = 0;       // the same seed gives the same tokens
};

// Calls on_token for each new token; false ends the generation early. The prompt must hold at least one token. When the
// model's context is full, the last half of it is read again from position 0 and generation goes on from there.
// The model is in evaluation mode meanwhile.
void generate(TransformerLm& model, std::vector<int64_t> prompt, const GenerateOptions& options,
              const std::function<bool(int64_t token)>& on_token);

// One draw. logits: [V] float32 or float64, uniform in [0, 1). Token u is the first whose cumulated weight, over tokens
// in ascending order, exceeds uniform.
int64_t sample_token(const at::Tensor& logits, double temperature, int64_t top_k, double uniform);

}  // namespace loci
