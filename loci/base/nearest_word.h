// Spelling help for messages about unknown words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace loci {

// The word of `known` with the least edit distance to `word`, or "" when none is near.
std::string nearest_word(std::string_view word, const std::vector<std::string>& known);

}  // namespace loci
