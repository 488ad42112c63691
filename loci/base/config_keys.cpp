#include "loci/base/config_keys.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "loci/base/config_text.h"

namespace loci {
namespace {

std::string quoted_list(const std::vector<std::string>& words) {
  std::vector<std::string> quoted;
  for (const std::string& word : words) quoted.push_back(toml_string(word));
  return fmt::format("{}", fmt::join(quoted, ", "));
}

class KeyLister final : public ConfigFields {
 public:
  explicit KeyLister(std::vector<ConfigKey>& keys) : keys_(keys) {}

  void field(std::string_view name, int64_t& value, std::string_view help, IntegerRange range) override {
    add(name, describe("an integer", range), fmt::to_string(value), help);
  }
  void field(std::string_view name, double& value, std::string_view help, RealRange range) override {
    add(name, describe("a number", range), toml_real(value), help);
  }
  void field(std::string_view name, bool& value, std::string_view help) override {
    add(name, "true or false", value ? "true" : "false", help);
  }
  void field(std::string_view name, std::string& value, std::string_view help) override {
    add(name, "a string", toml_string(value), help);
  }
  void field(std::string_view name, std::vector<int64_t>& value, std::string_view help, IntegerRange range) override {
    add(name, describe("a list of integers", range), fmt::format("[{}]", fmt::join(value, ", ")), help);
  }
  void field(std::string_view name, std::vector<std::string>& value, std::string_view help) override {
    add(name, "a list of strings", fmt::format("[{}]", quoted_list(value)), help);
  }
  void choice(std::string_view name, std::string& value, std::string_view help,
              const std::vector<std::string>& words) override {
    add(name, "one of " + quoted_list(words), toml_string(value), help);
  }

 protected:
  bool begin_section(std::string_view name) override {
    levels_.push_back({dotted_key(levels_.back().prefix, name), levels_.back().optional});
    return true;
  }
  bool begin_optional_section(std::string_view name, bool&) override {
    levels_.push_back({dotted_key(levels_.back().prefix, name), true});
    return true;
  }
  void end_section() override { levels_.pop_back(); }
  void begin_condition(bool holds, std::string_view condition) override {
    conditions_.emplace_back(condition);
    hold_.push_back(holds);
  }
  void end_condition() override {
    conditions_.pop_back();
    hold_.pop_back();
  }

 private:
  struct Level {
    std::string prefix;
    bool optional;
  };
  void add(std::string_view name, std::string type, std::string value, std::string_view help) {
    keys_.push_back({levels_.back().prefix, std::string(name), std::move(type), std::move(value), std::string(help),
                     fmt::format("{}", fmt::join(conditions_, " and ")),
                     std::find(hold_.begin(), hold_.end(), false) == hold_.end(), levels_.back().optional});
  }

  std::vector<ConfigKey>& keys_;
  std::vector<Level> levels_ = {{"", false}};
  std::vector<std::string> conditions_;
  std::vector<bool> hold_;  // of each condition
};

}  // namespace

std::unique_ptr<ConfigFields> key_lister(std::vector<ConfigKey>& keys) {
  return std::make_unique<KeyLister>(keys);
}

// A table's own keys come before its sub-tables, as TOML wants them.
std::string keys_text(const std::vector<ConfigKey>& keys) {
  std::vector<std::string> sections;
  for (const ConfigKey& key : keys) {
    if (std::find(sections.begin(), sections.end(), key.section) == sections.end()) sections.push_back(key.section);
  }
  std::stable_sort(sections.begin(), sections.end(),
                   [](const std::string& a, const std::string& b) { return a.empty() && !b.empty(); });
  // A section without a key in effect may stand under a condition itself.
  const auto header = [&](const ConfigKey& first) {
    const bool in_effect = std::any_of(
        keys.begin(), keys.end(), [&](const ConfigKey& key) { return key.section == first.section && key.in_effect; });
    return fmt::format("{}[{}]\n", first.optional ? "# may be absent: " : in_effect ? "" : "# ", first.section);
  };
  std::string text;
  for (const std::string& section : sections) {
    bool begun = false;
    for (const ConfigKey& key : keys) {
      if (key.section != section) continue;
      if (!begun && !section.empty()) text += (text.empty() ? "" : "\n") + header(key);
      begun = true;
      text += fmt::format("# {}{}\n", key.help,
                          key.condition.empty() ? "" : fmt::format(" (only where {})", key.condition));
      const std::string line =
          fmt::format("{}{} = {}", key.optional || !key.in_effect ? "# " : "", key.name, key.value);
      text += fmt::format("{:<36}  # {}\n", line, key.type);
    }
  }
  return text;
}

}  // namespace loci
