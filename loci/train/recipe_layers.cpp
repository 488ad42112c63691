#include "loci/train/recipe_layers.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "loci/base/check.h"

namespace loci {

const std::vector<std::string>& head_keys() {
  static const std::vector<std::string> keys = {"task", "seeds", "arms"};
  return keys;
}

bool is_head_key(const std::string& key) {
  const std::string first = key.substr(0, key.find('.'));
  return std::find(head_keys().begin(), head_keys().end(), first) != head_keys().end();
}

RunConfig blank_config(const TaskKind& kind) {
  RunConfig config;
  config.task = kind.name;
  config.plan = kind.plan();
  config.in_recipe = true;
  return config;
}

LayeredConfig::LayeredConfig(Config config, const TaskKind& kind)
    : config_(std::move(config)), kind_(kind), length_key_("train." + kind.plan()->unit()) {
  ineffective_ = ineffective_keys();
}

void LayeredConfig::drop_ineffective(const std::vector<std::string>& layer) {
  const auto in_layer = [&layer](const std::string& key) {  // a key, or a section with one
    return std::any_of(layer.begin(), layer.end(),
                       [&](const std::string& own) { return own == key || own.starts_with(key + "."); });
  };
  if (in_layer(length_key_) && !in_layer("train.steps")) config_.erase("train.steps");
  for (const std::string& key : ineffective_keys()) {
    if (ineffective_.count(key) == 0 && !in_layer(key)) config_.erase(key);
  }
  ineffective_ = ineffective_keys();
}

// None where the document cannot be read: the last reader tells why.
std::set<std::string> LayeredConfig::ineffective_keys() const {
  RunConfig probe = blank_config(kind_);
  try {
    const std::vector<std::string> keys = config_.ineffective(probe, head_keys());
    return {keys.begin(), keys.end()};
  } catch (const Error&) {
    return {};
  }
}

std::vector<Setting> settings_of(const std::vector<std::string>& texts) {
  std::vector<Setting> settings;
  for (const std::string& text : texts) {
    const size_t equals = std::min(text.find('='), text.size());
    const size_t colon = text.substr(0, equals).find(':');
    Setting setting;
    if (colon != std::string::npos) setting.arm = text.substr(0, colon);
    setting.assignment = colon == std::string::npos ? text : text.substr(colon + 1);
    setting.key = setting.assignment.substr(0, setting.assignment.find('='));
    std::erase_if(setting.key, [](char c) { return c == ' ' || c == '\t'; });
    for (const Setting& other : settings) {
      if (other.arm == setting.arm && other.key == setting.key) {
        fail(ExitCode::usage, "--set", "a key must be set once", setting.key + " twice");
      }
    }
    if (is_head_key(setting.key) && (!setting.arm.empty() || setting.key.starts_with("arms"))) {
      fail(ExitCode::usage, "--set", "the key must be one of a run, or task or seeds without an arm", text);
    }
    settings.push_back(std::move(setting));
  }
  return settings;
}

void add_settings(LayeredConfig& layers, const std::string& arm, const std::vector<Setting>& settings,
                  const std::vector<ConfigKey>& known, std::vector<bool>& used) {
  const auto wanted = [&](const Setting& setting) {
    if (is_head_key(setting.key)) return false;
    if (!setting.arm.empty()) return setting.arm == arm;
    for (const ConfigKey& key : known) {
      if (!key.optional || !setting.key.starts_with(key.section + ".")) continue;
      if (!layers.config().contains(key.section)) return false;
    }
    return std::none_of(settings.begin(), settings.end(),
                        [&](const Setting& other) { return other.arm == arm && other.key == setting.key; });
  };
  std::vector<std::string> keys, assignments;
  for (size_t i = 0; i < settings.size(); ++i) {
    if (!wanted(settings[i])) continue;
    used[i] = true;
    keys.push_back(settings[i].key);
    assignments.push_back(settings[i].assignment);
  }
  layers.add_layer(keys, [&](Config& config, size_t i) { config.set(assignments[i]); });
}

void refuse_unused(const Setting& setting, const std::vector<std::string>& selected) {
  const std::string arms = fmt::format("{}", fmt::join(selected, ", "));
  if (!setting.arm.empty()) {
    fail(ExitCode::usage, "--set", fmt::format("the arm must be one of {}", arms), setting.arm);
  }
  fail(ExitCode::usage, "--set",
       fmt::format("{} must have an effect on one of the arms {} (ARM:KEY=VALUE adds a section to an arm)", setting.key,
                   arms),
       "none");
}

}  // namespace loci
