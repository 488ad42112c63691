#include "loci/base/config.h"

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>

#include "loci/base/durable_file.h"

namespace loci {
namespace {

std::string toml_string(const std::string& text) {
  std::ostringstream out;
  const toml::value<std::string> value(text);
  out << toml::toml_formatter{value, toml::toml_formatter::default_flags &
                                         ~toml::format_flags::allow_multi_line_strings &
                                         ~toml::format_flags::allow_literal_strings};
  return out.str();
}

std::string real_text(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";  // "inf" and "nan" hold an n
  return text;
}

// A value as the user wrote it, short enough for a message.
std::string shown(const toml::node& node) {
  if (node.is_table()) return "a table";
  std::string text;
  if (const auto* value = node.as_string()) {
    text = toml_string(**value);
  } else if (const auto* real = node.as_floating_point()) {
    text = real_text(**real);
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

template <class Range>
std::string phrase(std::string noun, const Range& range) {
  using Value = decltype(range.minimum);
  const bool low = range.minimum > Range{}.minimum;
  const bool high = range.maximum < Range{}.maximum;
  const auto text = [](Value value) { return fmt::format("{}", value); };
  if (low && high) return noun + fmt::format(" from {} to {}", text(range.minimum), text(range.maximum));
  if (low) return noun + fmt::format(" of at least {}", text(range.minimum));
  if (high) return noun + fmt::format(" of at most {}", text(range.maximum));
  return noun;
}

std::string dotted(const std::string& prefix, std::string_view name) {
  return prefix.empty() ? std::string(name) : fmt::format("{}.{}", prefix, name);
}

// Reads a document into fields; a level is one table of it, which may be absent.
class Reader final : public ConfigFields {
 public:
  Reader(const toml::table& table, const std::string& name, const std::map<std::string, std::string>& places,
         std::vector<std::string> elsewhere)
      : name_(name), places_(places) {
    levels_.push_back({&table, "", std::move(elsewhere)});
  }

  void field(std::string_view name, int64_t& value, IntegerRange range) override {
    if (const toml::node* node = find(name)) value = integer(name, *node, *node, phrase("an integer", range), range);
  }
  void field(std::string_view name, double& value, RealRange range) override {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    const auto real = node->is_number() ? node->value<double>() : std::nullopt;
    if (!real || !(*real >= range.minimum && *real <= range.maximum)) refuse(name, phrase("a number", range), *node);
    value = *real;
  }
  void field(std::string_view name, bool& value) override {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    if (!node->is_boolean()) refuse(name, "true or false", *node);
    value = **node->as_boolean();
  }
  void field(std::string_view name, std::string& value) override {
    if (const toml::node* node = find(name)) value = word(name, *node, *node, "a string");
  }
  void field(std::string_view name, std::vector<int64_t>& value, IntegerRange range) override {
    const std::string expected = phrase("a list of integers", range);
    list(name, value, expected, [&](const toml::node& node, const toml::node& element) {
      return integer(name, node, element, expected, range);
    });
  }
  void field(std::string_view name, std::vector<std::string>& value) override {
    list(name, value, "a list of strings", [&](const toml::node& node, const toml::node& element) {
      return word(name, node, element, "a list of strings");
    });
  }
  void choice(std::string_view name, std::string& value, const std::vector<std::string>& words) override {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    std::string expected = "one of";
    for (const std::string& known : words) expected += (expected.back() == 'f' ? " \"" : ", \"") + known + '"';
    const auto text = node->value<std::string>();
    if (!text || std::find(words.begin(), words.end(), *text) == words.end()) refuse(name, expected, *node);
    value = *text;
  }

  // Refuses the keys of the innermost table that no field asked for.
  void refuse_unknown() const {
    const Level& level = levels_.back();
    if (level.table == nullptr) return;
    for (const auto& [key, node] : *level.table) {
      if (std::find(level.known.begin(), level.known.end(), key.str()) != level.known.end()) continue;
      const std::string path = dotted(level.prefix, key.str());
      const std::string near = nearest_word(key.str(), level.known);
      std::string advice = near.empty() ? "" : fmt::format(", did you mean {}?", near);
      if (near.empty() && !level.known.empty()) advice = fmt::format(", known are {}", fmt::join(level.known, ", "));
      throw Error(ExitCode::usage, fmt::format("{}: unknown key {}{}", place(path), path, advice));
    }
  }

 protected:
  bool begin_section(std::string_view name) override {
    const toml::node* node = find(name);
    if (node != nullptr && !node->is_table()) refuse(name, "a table", *node);
    levels_.push_back({node == nullptr ? nullptr : node->as_table(), dotted(levels_.back().prefix, name), {}});
    return true;
  }
  bool begin_optional_section(std::string_view name, bool& present) override {
    present = find(name) != nullptr;
    return present && begin_section(name);
  }
  void end_section() override {
    refuse_unknown();
    levels_.pop_back();
  }

 private:
  struct Level {
    const toml::table* table;
    std::string prefix;
    std::vector<std::string> known;
  };

  const toml::node* find(std::string_view name) {
    auto& known = levels_.back().known;
    if (std::find(known.begin(), known.end(), name) == known.end()) known.emplace_back(name);
    return levels_.back().table == nullptr ? nullptr : levels_.back().table->get(name);
  }
  std::string place(const std::string& path) const {
    const auto found = places_.find(path);
    return found == places_.end() ? name_ : found->second;
  }
  [[noreturn]] void refuse(std::string_view name, const std::string& expected, const toml::node& node) const {
    const std::string path = dotted(levels_.back().prefix, name);
    throw Error(ExitCode::usage, fmt::format("{}: {} must be {}, got {}", place(path), path, expected, shown(node)));
  }

  int64_t integer(std::string_view name, const toml::node& whole, const toml::node& node, const std::string& expected,
                  IntegerRange range) const {
    const auto* value = node.as_integer();
    if (value == nullptr || **value < range.minimum || **value > range.maximum) refuse(name, expected, whole);
    return **value;
  }
  std::string word(std::string_view name, const toml::node& whole, const toml::node& node,
                   const std::string& expected) const {
    if (!node.is_string()) refuse(name, expected, whole);
    return **node.as_string();
  }
  template <class Value, class Element>
  void list(std::string_view name, std::vector<Value>& value, const std::string& expected, Element element) {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    if (!node->is_array()) refuse(name, expected, *node);
    std::vector<Value> result;
    for (const toml::node& part : *node->as_array()) result.push_back(element(*node, part));
    value = std::move(result);
  }

  std::string name_;
  const std::map<std::string, std::string>& places_;
  std::vector<Level> levels_;
};

// Writes fields as TOML: in a table the values come first, then its sub-tables.
class Writer final : public ConfigFields {
 public:
  void field(std::string_view name, int64_t& value, IntegerRange) override { line(name, fmt::to_string(value)); }
  void field(std::string_view name, double& value, RealRange) override { line(name, real_text(value)); }
  void field(std::string_view name, bool& value) override { line(name, value ? "true" : "false"); }
  void field(std::string_view name, std::string& value) override { line(name, toml_string(value)); }
  void field(std::string_view name, std::vector<int64_t>& value, IntegerRange) override {
    line(name, fmt::format("[{}]", fmt::join(value, ", ")));
  }
  void field(std::string_view name, std::vector<std::string>& value) override {
    std::vector<std::string> words;
    for (const std::string& word : value) words.push_back(toml_string(word));
    line(name, fmt::format("[{}]", fmt::join(words, ", ")));
  }
  void choice(std::string_view name, std::string& value, const std::vector<std::string>&) override {
    line(name, toml_string(value));
  }
  std::string text() const { return levels_.back().values + levels_.back().tables; }

 protected:
  bool begin_section(std::string_view name) override {
    levels_.push_back({dotted(levels_.back().prefix, name), "", ""});
    return true;
  }
  bool begin_optional_section(std::string_view name, bool& present) override { return present && begin_section(name); }
  void end_section() override {
    const Level level = std::move(levels_.back());
    levels_.pop_back();
    std::string& tables = levels_.back().tables;
    tables += fmt::format("\n[{}]\n{}{}", level.prefix, level.values, level.tables);
  }

 private:
  struct Level {
    std::string prefix;
    std::string values;
    std::string tables;
  };
  void line(std::string_view name, const std::string& value) {
    levels_.back().values += fmt::format("{} = {}\n", name, value);
  }

  std::vector<Level> levels_ = std::vector<Level>(1);
};

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

std::vector<std::string> split_key(std::string_view key, std::string_view who) {
  std::vector<std::string> parts;
  for (size_t begin = 0;;) {
    const size_t end = key.find('.', begin);
    parts.emplace_back(trimmed(key.substr(begin, end == std::string_view::npos ? end : end - begin)));
    if (parts.back().empty()) {
      fail(ExitCode::usage, who, "the key must be names joined by dots", fmt::format("\"{}\"", key));
    }
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

// The document {value = text}, or nothing when the text is no TOML value.
std::optional<toml::table> parse_value(std::string_view text) {
  try {
    toml::table table = toml::parse(fmt::format("value = {}", text));
    if (table.size() == 1 && table.contains("value")) return table;
  } catch (const toml::parse_error&) {
  }
  return std::nullopt;
}

}  // namespace

Config Config::from_file(const std::filesystem::path& path) {
  return from_text(read_text_file(path), path.string());
}

Config Config::from_text(std::string_view text, std::string_view name) {
  Config config;
  config.name_ = name;
  try {
    config.table_ = toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    fail(ExitCode::usage, fmt::format("{}:{}", name, error.source().begin.line), "the file must be TOML",
         error.description());
  }
  config.note_places("", config.table_, config.name_);
  return config;
}

void Config::note_places(const std::string& key, const toml::node& node, const std::string& name) {
  const auto line = node.source().begin.line;
  if (!key.empty()) places_[key] = line > 0 ? fmt::format("{}:{}", name, line) : name;
  if (const toml::table* table = node.as_table()) {
    for (const auto& [part, child] : *table) note_places(dotted(key, part.str()), child, name);
  }
}

void Config::set(std::string_view assignment) {
  const std::string who = "--set";
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) {
    fail(ExitCode::usage, who, "the argument must be KEY=VALUE", fmt::format("\"{}\"", assignment));
  }
  const std::string_view key = trimmed(assignment.substr(0, equals));
  const std::string_view text = trimmed(assignment.substr(equals + 1));
  const auto parsed = parse_value(text);
  if (!parsed && !text.empty() && std::string_view("[{\"'").find(text.front()) != std::string_view::npos) {
    fail(ExitCode::usage, who, fmt::format("the value of {} must be TOML or a bare word", key), std::string(text));
  }
  if (parsed) {
    assign(key, *parsed->get("value"), who);
  } else {
    assign(key, toml::value<std::string>(std::string(text)), who);
  }
  // The value was parsed on its own: its line numbers mean nothing to the user.
  const std::string prefix = fmt::format("{}.", key);
  for (auto& [path, place] : places_) {
    if (path == key || path.starts_with(prefix)) place = who;
  }
}

void Config::set(std::string_view dotted_key, const toml::node& value) {
  assign(dotted_key, value, name_);
}

void Config::assign(std::string_view key, const toml::node& value, const std::string& name) {
  const std::vector<std::string> parts = split_key(key, name);
  toml::table* table = &table_;
  std::string path;
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    path = dotted(path, parts[i]);
    toml::node& node = table->emplace<toml::table>(parts[i]).first->second;
    if (!node.is_table()) {
      fail(ExitCode::usage, name, fmt::format("{} must be a table to hold {}", path, key), shown(node));
    }
    table = node.as_table();
  }
  table->insert_or_assign(parts.back(), value);
  const std::string joined = fmt::format("{}", fmt::join(parts, "."));
  note_places(joined, value, name);
}

std::unique_ptr<ConfigFields> Config::reader(const std::vector<std::string>& elsewhere) const {
  return std::make_unique<Reader>(table_, name_, places_, elsewhere);
}

void Config::finish(ConfigFields& fields) const {
  dynamic_cast<Reader&>(fields).refuse_unknown();
}

std::unique_ptr<ConfigFields> Config::writer() {
  return std::make_unique<Writer>();
}

std::string Config::text_of(ConfigFields& fields) {
  std::string text = dynamic_cast<Writer&>(fields).text();
  if (text.starts_with('\n')) text.erase(0, 1);
  return text;
}

}  // namespace loci
