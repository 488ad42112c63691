// Configuration: TOML into typed structs and back. A struct lists its fields once:
//
//   struct AdamOptions {
//     double learning_rate = 3e-3;
//     void fields(ConfigFields& f) { f.field("learning_rate", learning_rate, {.minimum = 0}); }
//   };
//
// Reading checks types and ranges and refuses unknown keys, naming the nearest known one; writing gives the resolved
// configuration, every field in order. Both walk the same fields().
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <toml++/toml.h>

#include "loci/base/check.h"
#include "loci/base/nearest_word.h"

namespace loci {

struct IntegerRange {
  int64_t minimum = std::numeric_limits<int64_t>::min();
  int64_t maximum = std::numeric_limits<int64_t>::max();
};
struct RealRange {
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
};

class ConfigFields {
 public:
  virtual ~ConfigFields() = default;
  virtual void field(std::string_view name, int64_t& value, IntegerRange range = {}) = 0;
  virtual void field(std::string_view name, double& value, RealRange range = {}) = 0;
  virtual void field(std::string_view name, bool& value) = 0;
  virtual void field(std::string_view name, std::string& value) = 0;
  virtual void field(std::string_view name, std::vector<int64_t>& value, IntegerRange range = {}) = 0;
  virtual void field(std::string_view name, std::vector<std::string>& value) = 0;
  // One of the given words.
  virtual void choice(std::string_view name, std::string& value, const std::vector<std::string>& words) = 0;

  // An enumeration with its words, in one line: f.choice("norm", norm, {{"none", Norm::none}, {"layer", Norm::layer}}).
  template <class E>
  void choice(std::string_view name, E& value, const std::vector<std::pair<std::string, E>>& words) {
    std::vector<std::string> names;
    std::string word;
    for (const auto& [text, known] : words) {
      names.push_back(text);
      if (known == value) word = text;
    }
    choice(name, word, names);
    for (const auto& [text, known] : words) {
      if (text == word) value = known;
    }
  }

  // A sub-table: a struct with fields() of its own.
  template <class S>
  void section(std::string_view name, S& value) {
    if (begin_section(name)) {
      value.fields(*this);
      end_section();
    }
  }
  // A sub-table that may be absent, such as [model.memory]; `present` says whether it is there.
  template <class S>
  void optional_section(std::string_view name, bool& present, S& value) {
    if (begin_optional_section(name, present)) {
      value.fields(*this);
      end_section();
    }
  }

 protected:
  virtual bool begin_section(std::string_view name) = 0;
  virtual bool begin_optional_section(std::string_view name, bool& present) = 0;
  virtual void end_section() = 0;
};

// A TOML document. Errors (usage; input when the file cannot be read) name the file, the line and the key.
class Config {
 public:
  Config() = default;
  static Config from_file(const std::filesystem::path& path);
  static Config from_text(std::string_view text, std::string_view name = "config");

  // "a.b=c": c is a TOML value (3, 1e-3, true, "x", [1, 2]); a bare word is taken as a string.
  void set(std::string_view assignment);
  void set(std::string_view dotted_key, const toml::node& value);

  // Fills every field that the document names, keeps the defaults of the others, and refuses unknown keys. Keys in
  // `elsewhere` (top level only) are left to another reader.
  template <class S>
  void read(S& value, const std::vector<std::string>& elsewhere = {}) const {
    auto fields = reader(elsewhere);
    value.fields(*fields);
    finish(*fields);
  }
  // The resolved configuration as TOML text.
  template <class S>
  static std::string write(const S& value) {
    S copy = value;
    auto fields = writer();
    copy.fields(*fields);
    return text_of(*fields);
  }

  const toml::table& table() const { return table_; }
  toml::table& table() { return table_; }
  const std::string& name() const { return name_; }

 private:
  std::unique_ptr<ConfigFields> reader(const std::vector<std::string>& elsewhere) const;
  void finish(ConfigFields& fields) const;
  static std::unique_ptr<ConfigFields> writer();
  static std::string text_of(ConfigFields& fields);
  void assign(std::string_view key, const toml::node& value, const std::string& name);
  void note_places(const std::string& key, const toml::node& node, const std::string& name);

  toml::table table_;
  std::string name_ = "config";
  std::map<std::string, std::string> places_;  // "file:line" by dotted key: copies of toml nodes lose their lines
};

}  // namespace loci
