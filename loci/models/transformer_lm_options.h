// What the options of the language model mean once resolved. For transformer_lm*.cpp.
#pragma once

#include <cstdint>
#include <vector>

namespace loci {

struct TransformerLmOptions;

// Throws Error (usage) for options that do not fit each other.
void check_model_options(const TransformerLmOptions& options);
// Numbers of the layers with a memory, ascending.
std::vector<int64_t> memory_layers(const TransformerLmOptions& options);
// The same with an n-gram memory.
std::vector<int64_t> ngram_layers(const TransformerLmOptions& options);
int64_t resolved_ffn_width(const TransformerLmOptions& options);

}  // namespace loci
