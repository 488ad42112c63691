// Small language models for tests.
#pragma once

#include <ATen/Context.h>
#include <ATen/ops/randint.h>

#include <functional>
#include <vector>

#include "loci/models/transformer_lm.h"

namespace loci {

constexpr int64_t kSmallVocabulary = 23;

inline at::Tensor some_tokens(int64_t batch, int64_t length) {
  at::manual_seed(2);
  return at::randint(kSmallVocabulary, {batch, length}, at::kLong);
}

inline TransformerLmOptions small_model(const std::function<void(TransformerLmOptions&)>& change = {}) {
  TransformerLmOptions options;
  options.vocabulary = kSmallVocabulary;
  options.layers = 2;
  options.width = 16;
  options.heads = 2;
  options.context = 12;
  options.memory.layers = {-1};
  options.memory.rows = 50;
  options.memory.layer.heads = 2;
  options.memory.layer.top_k = 4;
  if (change) change(options);
  return options;
}

inline TransformerLmOptions small_model_with_memory(MemoryPlacement placement,
                                                    const std::function<void(TransformerLmOptions&)>& change = {}) {
  return small_model([&](TransformerLmOptions& o) {
    o.has_memory = true;
    o.memory.placement = placement;
    if (change) change(o);
  });
}

inline const std::vector<MemoryPlacement> kPlacements = {MemoryPlacement::replace, MemoryPlacement::parallel,
                                                         MemoryPlacement::after};

}  // namespace loci
