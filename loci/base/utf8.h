// UTF-8, one step at a time.
#pragma once

#include <string>
#include <string_view>

namespace loci {

struct Utf8Step {
  int length;      // bytes of the sequence, or of the malformed part that one U+FFFD stands for; 0 only for empty text
  bool valid;      // a whole, shortest-form sequence of a scalar value
  bool truncated;  // not valid, but more bytes could make it so: the text ends inside the sequence
};

// What stands at the start of `text`. A malformed part is the longest start of a sequence (Unicode, section 3.9).
Utf8Step utf8_step(std::string_view text);

void append_utf8(std::string& text, char32_t scalar);

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace loci
