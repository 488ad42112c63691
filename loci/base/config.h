// Configuration: TOML documents into structs of options (loci/base/config_fields.h) and back.
//
// Reading checks types and ranges and refuses unknown keys, naming the nearest known one; writing gives the resolved
// configuration, every field in order. Both walk the same fields().
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <toml++/toml.h>

#include "loci/base/check.h"
#include "loci/base/config_fields.h"

namespace loci {

// A TOML document. Errors (usage; input when the file cannot be read) name the file, the line and the key.
class Config {
 public:
  Config() = default;
  static Config from_file(const std::filesystem::path& path);
  static Config from_text(std::string_view text, std::string_view name = "config");

  // Keys are dotted: "a.b". In an assignment "a.b=c", c is a TOML value (3, 1e-3, true, "x", [1, 2]); a bare word is
  // taken as a string.
  void set(std::string_view assignment);
  void set(std::string_view key, const toml::node& value);
  bool contains(std::string_view key) const;
  void erase(std::string_view key);  // nothing where there is no such key

  // Fills every field that the document names, keeps the defaults of the others, and refuses unknown keys. Keys in
  // `elsewhere` (top level only) are left to another reader.
  template <class S>
  void read(S& value, const std::vector<std::string>& elsewhere = {}) const {
    auto fields = reader(elsewhere);
    value.fields(*fields);
    finish(*fields);
  }
  // As read(), but leaves every top-level key that is no field to another reader.
  template <class S>
  void read_part(S& value) const {
    value.fields(*reader({}));
  }
  // The keys of the document that have no effect, given its other keys (ConfigFields::when); reading would refuse them.
  template <class S>
  std::vector<std::string> ineffective(S& value, const std::vector<std::string>& elsewhere = {}) const {
    std::vector<std::string> keys;
    auto fields = reader(elsewhere, &keys);
    value.fields(*fields);
    return keys;
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
  // Keys without an effect are put into `ineffective` where it is given, and are errors otherwise.
  std::unique_ptr<ConfigFields> reader(const std::vector<std::string>& elsewhere,
                                       std::vector<std::string>* ineffective = nullptr) const;
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
