#include "loci/base/config_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "loci/base/config_fields.h"

namespace loci {
namespace {

template <class Range>
std::string noun_and_range(std::string_view noun, const Range& range) {
  const bool low = range.minimum > Range{}.minimum;
  const bool high = range.maximum < Range{}.maximum;
  const std::string least = fmt::format("{}", range.minimum);
  const std::string most = fmt::format("{}", range.maximum);
  if (low && high) return fmt::format("{} from {} to {}", noun, least, most);
  if (low) return fmt::format("{} of at least {}", noun, least);
  if (high) return fmt::format("{} of at most {}", noun, most);
  return std::string(noun);
}

}  // namespace

std::string describe(std::string_view noun, IntegerRange range) {
  return noun_and_range(noun, range);
}

std::string describe(std::string_view noun, RealRange range) {
  return noun_and_range(noun, range);
}

std::string toml_string(const std::string& text) {
  std::ostringstream out;
  const toml::value<std::string> value(text);
  out << toml::toml_formatter{value, toml::toml_formatter::default_flags &
                                         ~toml::format_flags::allow_multi_line_strings &
                                         ~toml::format_flags::allow_literal_strings};
  return out.str();
}

std::string toml_real(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";  // "inf" and "nan" hold an n
  return text;
}

std::string dotted_key(const std::string& prefix, std::string_view name) {
  return prefix.empty() ? std::string(name) : fmt::format("{}.{}", prefix, name);
}

std::string toml_shown(const toml::node& node) {
  if (node.is_table()) return "a table";
  std::string text;
  if (const auto* value = node.as_string()) {
    text = toml_string(**value);
  } else if (const auto* real = node.as_floating_point()) {
    text = toml_real(**real);
  } else {
    std::ostringstream out;
    node.visit([&out](const auto& concrete) { out << concrete; });
    text = out.str();
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.size() <= 60) return text;
  size_t end = 57;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

}  // namespace loci
