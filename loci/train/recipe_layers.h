// How the configuration of a run is put together from layers (the head of recipe.h); for recipe.cpp alone.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config.h"
#include "loci/base/config_keys.h"
#include "loci/train/recipe.h"

namespace loci {

// Keys of the document that are not those of a run: task, seeds, arms.
const std::vector<std::string>& head_keys();
bool is_head_key(const std::string& key);

// The defaults of a recipe's runs.
RunConfig blank_config(const TaskKind& kind);

// A document that grows by layers.
class LayeredConfig {
 public:
  LayeredConfig(Config config, const TaskKind& kind);
  const Config& config() const { return config_; }

  // `set(config, i)` sets keys[i].
  template <class Set>
  void add_layer(const std::vector<std::string>& keys, const Set& set) {
    if (keys.empty()) return;
    for (size_t i = 0; i < keys.size(); ++i) set(config_, i);
    drop_ineffective(keys);
  }

 private:
  void drop_ineffective(const std::vector<std::string>& layer);
  std::set<std::string> ineffective_keys() const;

  Config config_;
  const TaskKind& kind_;
  std::string length_key_;             // "train.tokens"
  std::set<std::string> ineffective_;  // after the last layer
};

// --set of the command line.
struct Setting {
  std::string arm;         // empty: every selected arm
  std::string key;         // dotted
  std::string assignment;  // "key=value"
};

std::vector<Setting> settings_of(const std::vector<std::string>& texts);
// Puts the settings on one arm; `used` marks those that have an effect on it. `known`: the keys of a run.
void add_settings(LayeredConfig& layers, const std::string& arm, const std::vector<Setting>& settings,
                  const std::vector<ConfigKey>& known, std::vector<bool>& used);
[[noreturn]] void refuse_unused(const Setting& setting, const std::vector<std::string>& selected);

}  // namespace loci
