#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/config_text.h"
#include "loci/base/nearest_word.h"

namespace loci {
namespace {

// Whole numbers may be written as reals (4e6) as far as a double holds every whole number.
std::optional<int64_t> whole_number(const toml::node& node) {
  constexpr double most = 9007199254740992;  // 2^53
  if (const auto* integer = node.as_integer()) return **integer;
  const auto* real = node.as_floating_point();
  if (real == nullptr || !(std::abs(**real) <= most) || **real != std::trunc(**real)) return std::nullopt;
  return static_cast<int64_t>(**real);
}

// Reads a document into fields; a level is one table of it, which may be absent.
class ConfigReader final : public ConfigFields {
 public:
  ConfigReader(const toml::table& table, const std::string& name, const std::map<std::string, std::string>& places,
               std::vector<std::string> elsewhere, std::vector<std::string>* ineffective)
      : name_(name), places_(places), ineffective_(ineffective) {
    levels_.push_back({&table, "", std::move(elsewhere)});
  }

  void field(std::string_view name, int64_t& value, std::string_view, IntegerRange range) override {
    if (const toml::node* node = find(name)) value = integer(name, *node, *node, describe("an integer", range), range);
  }
  void field(std::string_view name, double& value, std::string_view, RealRange range) override {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    const auto real = node->is_number() ? node->value<double>() : std::nullopt;
    if (!real || !std::isfinite(*real) || *real < range.minimum || *real > range.maximum) {
      refuse(name, describe(real && !std::isfinite(*real) ? "a finite number" : "a number", range), *node);
    }
    value = *real;
  }
  void field(std::string_view name, bool& value, std::string_view) override {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    if (!node->is_boolean()) refuse(name, "true or false", *node);
    value = **node->as_boolean();
  }
  void field(std::string_view name, std::string& value, std::string_view) override {
    if (const toml::node* node = find(name)) value = word(name, *node, *node, "a string");
  }
  void field(std::string_view name, std::vector<int64_t>& value, std::string_view, IntegerRange range) override {
    const std::string expected = describe("a list of integers", range);
    list(name, value, expected, [&](const toml::node& node, const toml::node& element) {
      return integer(name, node, element, expected, range);
    });
  }
  void field(std::string_view name, std::vector<std::string>& value, std::string_view) override {
    list(name, value, "a list of strings", [&](const toml::node& node, const toml::node& element) {
      return word(name, node, element, "a list of strings");
    });
  }
  void choice(std::string_view name, std::string& value, std::string_view,
              const std::vector<std::string>& words) override {
    const toml::node* node = find(name);
    if (node == nullptr) return;
    const std::string expected = fmt::format("one of \"{}\"", fmt::join(words, "\", \""));
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
      const std::string path = dotted_key(level.prefix, key.str());
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
    levels_.push_back({node == nullptr ? nullptr : node->as_table(), dotted_key(levels_.back().prefix, name), {}});
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
  void begin_condition(bool holds, std::string_view condition) override {
    conditions_.emplace_back(holds, std::string(condition));
  }
  void end_condition() override { conditions_.pop_back(); }

 private:
  struct Level {
    const toml::table* table;
    std::string prefix;
    std::vector<std::string> known;
  };

  const toml::node* find(std::string_view name) {
    auto& known = levels_.back().known;
    if (std::find(known.begin(), known.end(), name) == known.end()) known.emplace_back(name);
    const toml::node* node = levels_.back().table == nullptr ? nullptr : levels_.back().table->get(name);
    if (node == nullptr) return nullptr;
    for (const auto& [holds, condition] : conditions_) {
      if (holds) continue;
      const std::string path = dotted_key(levels_.back().prefix, name);
      if (ineffective_ != nullptr) {
        ineffective_->push_back(path);
        return nullptr;
      }
      throw Error(ExitCode::usage, fmt::format("{}: {} must be left out, for it has an effect only where {}, got {}",
                                               place(path), path, condition, toml_shown(*node)));
    }
    return node;
  }
  std::string place(const std::string& path) const {
    const auto found = places_.find(path);
    return found == places_.end() ? name_ : found->second;
  }
  [[noreturn]] void refuse(std::string_view name, const std::string& expected, const toml::node& node) const {
    const std::string path = dotted_key(levels_.back().prefix, name);
    throw Error(ExitCode::usage,
                fmt::format("{}: {} must be {}, got {}", place(path), path, expected, toml_shown(node)));
  }

  int64_t integer(std::string_view name, const toml::node& whole, const toml::node& node, const std::string& expected,
                  IntegerRange range) const {
    const std::optional<int64_t> value = whole_number(node);
    if (!value || *value < range.minimum || *value > range.maximum) refuse(name, expected, whole);
    return *value;
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
  std::vector<std::string>* ineffective_;
  std::vector<Level> levels_;
  std::vector<std::pair<bool, std::string>> conditions_;  // those around the field: does it hold, and its words
};

}  // namespace

std::unique_ptr<ConfigFields> Config::reader(const std::vector<std::string>& elsewhere,
                                             std::vector<std::string>* ineffective) const {
  return std::make_unique<ConfigReader>(table_, name_, places_, elsewhere, ineffective);
}

void Config::finish(ConfigFields& fields) const {
  dynamic_cast<ConfigReader&>(fields).refuse_unknown();
}

}  // namespace loci
