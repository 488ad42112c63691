// The keys of a configuration, for people: `loci train --keys`, docs/recipe-keys.md.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"

namespace loci {

struct ConfigKey {
  std::string section;    // "model.memory"; empty at the top level
  std::string name;       // "rows"
  std::string type;       // "an integer of at least 1"
  std::string value;      // the default, as TOML
  std::string help;       // one line
  std::string condition;  // the key has an effect only where it holds; empty: everywhere
  bool in_effect = true;  // it holds with the defaults
  bool optional = false;  // its section, or one around it, may be absent
  std::string key() const { return section.empty() ? name : section + "." + name; }
};

std::unique_ptr<ConfigFields> key_lister(std::vector<ConfigKey>& keys);

// Every key that `value` has in a document, in the order of its fields; `value` holds the defaults.
template <class S>
std::vector<ConfigKey> keys_of(const S& value) {
  S copy = value;
  std::vector<ConfigKey> keys;
  copy.fields(*key_lister(keys));
  return keys;
}

// TOML with a comment of help before each key, and its type behind it. Keys without an effect on the defaults, and
// those of optional sections, are commented out, so that the text reads back as the defaults.
std::string keys_text(const std::vector<ConfigKey>& keys);

}  // namespace loci
