#include "loci/base/config.h"

#include <optional>

#include "loci/base/config_text.h"
#include "loci/base/durable_file.h"

namespace loci {
namespace {

std::string_view without_blanks(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

std::vector<std::string> split_key(std::string_view key, std::string_view who) {
  std::vector<std::string> parts;
  for (size_t begin = 0;;) {
    const size_t end = key.find('.', begin);
    parts.emplace_back(without_blanks(key.substr(begin, end == std::string_view::npos ? end : end - begin)));
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
    for (const auto& [part, child] : *table) note_places(dotted_key(key, part.str()), child, name);
  }
}

void Config::set(std::string_view assignment) {
  const std::string who = "--set";
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) {
    fail(ExitCode::usage, who, "the argument must be KEY=VALUE", fmt::format("\"{}\"", assignment));
  }
  const std::string_view key = without_blanks(assignment.substr(0, equals));
  const std::string_view text = without_blanks(assignment.substr(equals + 1));
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

void Config::set(std::string_view key, const toml::node& value) {
  assign(key, value, name_);
}

void Config::assign(std::string_view key, const toml::node& value, const std::string& name) {
  const std::vector<std::string> parts = split_key(key, name);
  toml::table* table = &table_;
  std::string path;
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    path = dotted_key(path, parts[i]);
    toml::node& node = table->emplace<toml::table>(parts[i]).first->second;
    if (!node.is_table()) {
      fail(ExitCode::usage, name, fmt::format("{} must be a table to hold {}", path, key), toml_shown(node));
    }
    table = node.as_table();
  }
  table->insert_or_assign(parts.back(), value);
  std::string joined;
  for (const std::string& part : parts) joined = dotted_key(joined, part);
  note_places(joined, value, name);
}

bool Config::contains(std::string_view key) const {
  return static_cast<bool>(table_.at_path(key));
}

void Config::erase(std::string_view key) {
  const size_t dot = key.rfind('.');
  const bool nested = dot != std::string_view::npos;
  toml::table* table = nested ? table_.at_path(key.substr(0, dot)).as_table() : &table_;
  if (table != nullptr) table->erase(nested ? key.substr(dot + 1) : key);
}

}  // namespace loci
