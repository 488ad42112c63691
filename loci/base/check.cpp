#include "loci/base/check.h"

#include "loci/base/utf8.h"

namespace loci {
namespace {

// The scalar value of a valid UTF-8 sequence.
char32_t scalar_of(std::string_view sequence) {
  const auto lead = static_cast<unsigned char>(sequence[0]);
  char32_t value = sequence.size() == 1 ? lead : lead & (0x7F >> sequence.size());
  for (const char c : sequence.substr(1)) value = value << 6 | (static_cast<unsigned char>(c) & 0x3F);
  return value;
}

// Control characters, the line and paragraph separators, and the marks that reorder what stands around them.
bool is_unsafe(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x061C || c == 0x200E || c == 0x200F ||
         (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

std::string escaped_scalar(char32_t c) {
  if (c == '\n') return "\\n";
  if (c == '\r') return "\\r";
  if (c == '\t') return "\\t";
  return fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
}

}  // namespace

std::string printable(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    const std::string_view sequence = text.substr(0, static_cast<size_t>(step.length));
    text.remove_prefix(sequence.size());
    if (!step.valid) {
      for (const char c : sequence) result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else if (const char32_t scalar = scalar_of(sequence); is_unsafe(scalar)) {
      result += escaped_scalar(scalar);
    } else {
      result += sequence;
    }
  }
  return result;
}

void fail(ExitCode code, std::string_view who, std::string_view expected, std::string_view got) {
  throw Error(code, fmt::format("{}: {}, got {}", who.empty() ? "\"\"" : who, expected, got));
}

int64_t checked_product(std::string_view who, std::string_view what, int64_t a, int64_t b) {
  int64_t product = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) {
    fail(ExitCode::usage, who, fmt::format("{} must fit 63 bits", what), fmt::format("{} x {}", a, b));
  }
  return product;
}

int64_t checked_sum(std::string_view who, std::string_view what, int64_t a, int64_t b) {
  int64_t sum = 0;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &sum)) {
    fail(ExitCode::usage, who, fmt::format("{} must fit 63 bits", what), fmt::format("{} + {}", a, b));
  }
  return sum;
}

}  // namespace loci
