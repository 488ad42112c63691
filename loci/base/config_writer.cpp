#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "loci/base/config.h"
#include "loci/base/config_text.h"

namespace loci {
namespace {

// Writes fields as TOML: in a table the values come first, then its sub-tables.
class ConfigWriter final : public ConfigFields {
 public:
  void field(std::string_view name, int64_t& value, std::string_view, IntegerRange) override {
    line(name, fmt::to_string(value));
  }
  void field(std::string_view name, double& value, std::string_view, RealRange) override {
    line(name, toml_real(value));
  }
  void field(std::string_view name, bool& value, std::string_view) override { line(name, value ? "true" : "false"); }
  void field(std::string_view name, std::string& value, std::string_view) override { line(name, toml_string(value)); }
  void field(std::string_view name, std::vector<int64_t>& value, std::string_view, IntegerRange) override {
    line(name, fmt::format("[{}]", fmt::join(value, ", ")));
  }
  void field(std::string_view name, std::vector<std::string>& value, std::string_view) override {
    std::vector<std::string> words;
    for (const std::string& word : value) words.push_back(toml_string(word));
    line(name, fmt::format("[{}]", fmt::join(words, ", ")));
  }
  void choice(std::string_view name, std::string& value, std::string_view, const std::vector<std::string>&) override {
    line(name, toml_string(value));
  }
  std::string text() const { return levels_.back().values + levels_.back().tables; }

 protected:
  bool begin_section(std::string_view name) override {
    if (!wanted()) return false;
    levels_.push_back({dotted_key(levels_.back().prefix, name), "", ""});
    return true;
  }
  bool begin_optional_section(std::string_view name, bool& present) override { return present && begin_section(name); }
  void end_section() override {
    const Level level = std::move(levels_.back());
    levels_.pop_back();
    std::string& tables = levels_.back().tables;
    tables += fmt::format("\n[{}]\n{}{}", level.prefix, level.values, level.tables);
  }
  void begin_condition(bool holds, std::string_view) override { conditions_.push_back(holds); }
  void end_condition() override { conditions_.pop_back(); }

 private:
  struct Level {
    std::string prefix;
    std::string values;
    std::string tables;
  };
  bool wanted() const { return std::find(conditions_.begin(), conditions_.end(), false) == conditions_.end(); }
  void line(std::string_view name, const std::string& value) {
    if (wanted()) levels_.back().values += fmt::format("{} = {}\n", name, value);
  }

  std::vector<Level> levels_ = std::vector<Level>(1);
  std::vector<bool> conditions_;  // those around the field: does it hold
};

}  // namespace

std::unique_ptr<ConfigFields> Config::writer() {
  return std::make_unique<ConfigWriter>();
}

std::string Config::text_of(ConfigFields& fields) {
  std::string text = dynamic_cast<ConfigWriter&>(fields).text();
  if (text.starts_with('\n')) text.erase(0, 1);
  return text;
}

}  // namespace loci
