#include "loci/train/recipe.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "loci/base/check.h"
#include "loci/base/config_keys.h"
#include "loci/base/nearest_word.h"
#include "loci/train/precision.h"
#include "loci/train/recipe_layers.h"

namespace loci {
namespace {

// The recipe's own keys; the others belong to its runs.
struct RecipeHead {
  std::string task;
  std::vector<int64_t> seeds = {0};
  void fields(ConfigFields& f) {
    f.field("task", task, "what is trained");
    f.field("seeds", seeds, "every arm is trained once for each seed", {.minimum = 0});
  }
};

[[noreturn]] void refuse_recipe(const Config& config, std::string_view expected, const std::string& got) {
  fail(ExitCode::usage, config.name(), expected, got);
}

const TaskKind& kind_of(const std::string& task, const std::vector<TaskKind>& tasks, const Config& config) {
  std::vector<std::string> names;
  for (const TaskKind& kind : tasks) {
    if (kind.name == task) return kind;
    names.push_back('"' + kind.name + '"');
  }
  refuse_recipe(config, fmt::format("task must be one of {}", fmt::join(names, ", ")), fmt::format("\"{}\"", task));
}

void refuse_unknown_keys(const Config& config, const toml::table& table, const std::vector<std::string>& known,
                         const std::string& what) {
  for (const auto& [key, node] : table) {
    if (std::find(known.begin(), known.end(), key.str()) != known.end()) continue;
    const std::string near = nearest_word(key.str(), known);
    refuse_recipe(config, fmt::format("the keys of {} must be {}", what, fmt::join(known, ", ")),
                  fmt::format("{}{}", key.str(), near.empty() ? "" : fmt::format(" (did you mean {}?)", near)));
  }
}

std::string word_of(const Config& config, const toml::table& table, const std::string& key, const std::string& what) {
  const toml::node* node = table.get(key);
  const auto* text = node == nullptr ? nullptr : node->as_string();
  if (text == nullptr || text->get().empty()) {
    refuse_recipe(config, fmt::format("{} of {} must be a name", key, what),
                  node == nullptr ? "nothing" : "another type");
  }
  return text->get();
}

// Arm names are folders.
void check_name(const Config& config, const std::string& name) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  };
  if (!std::all_of(name.begin(), name.end(), plain) || name.front() == '.' || name.size() > 100) {
    refuse_recipe(config, "an arm's name must be letters, digits, '-', '_' and '.'", fmt::format("\"{}\"", name));
  }
}

// Leaves of nested tables by their dotted keys.
void add_leaves(const toml::table& overrides, const std::string& prefix,
                std::vector<std::pair<std::string, const toml::node*>>& leaves) {
  for (const auto& [key, node] : overrides) {
    const std::string path = prefix.empty() ? std::string(key.str()) : fmt::format("{}.{}", prefix, key.str());
    if (const toml::table* table = node.as_table(); table != nullptr && !table->empty()) {
      add_leaves(*table, path, leaves);
    } else {
      leaves.emplace_back(path, &node);
    }
  }
}

struct ArmText {
  std::string name;
  std::vector<const toml::table*> layers;  // of overrides, first those of `from`
  std::optional<EqualTime> equal_time;
};

std::optional<EqualTime> equal_time_of(const Config& config, const toml::table& table, const std::string& what) {
  const toml::node* node = table.get("equal_time");
  if (node == nullptr) return std::nullopt;
  if (!node->is_table()) {
    refuse_recipe(config, fmt::format("equal_time of {} must be {{to = ARM, of = ARM}}", what), "another type");
  }
  refuse_unknown_keys(config, *node->as_table(), {"to", "of"}, fmt::format("equal_time of {}", what));
  return EqualTime{word_of(config, *node->as_table(), "to", what), word_of(config, *node->as_table(), "of", what)};
}

ArmText arm_of(const Config& config, const toml::table& table, const std::vector<ArmText>& earlier) {
  ArmText arm;
  arm.name = word_of(config, table, "name", "an arm");
  const std::string what = fmt::format("arm {}", arm.name);
  check_name(config, arm.name);
  refuse_unknown_keys(config, table, {"name", "from", "set", "equal_time"}, what);
  const auto known = [&earlier](const std::string& name) {
    return std::find_if(earlier.begin(), earlier.end(), [&name](const ArmText& other) { return other.name == name; });
  };
  if (known(arm.name) != earlier.end()) {
    refuse_recipe(config, "arms must have different names", fmt::format("{} twice", arm.name));
  }
  if (table.contains("from")) {
    const std::string from = word_of(config, table, "from", what);
    const auto other = known(from);
    if (other == earlier.end()) refuse_recipe(config, fmt::format("from of {} must be an earlier arm", what), from);
    arm.layers = other->layers;
  }
  if (const toml::node* set = table.get("set")) {
    if (!set->is_table()) refuse_recipe(config, fmt::format("set of {} must be a table", what), "another type");
    arm.layers.push_back(set->as_table());
    for (const auto& [key, node] : *set->as_table()) {
      if (!is_head_key(std::string(key.str()))) continue;
      refuse_recipe(config,
                    fmt::format("set of {} must hold keys of a run ({} are the whole recipe's)", what,
                                fmt::join(head_keys(), ", ")),
                    std::string(key.str()));
    }
  }
  arm.equal_time = equal_time_of(config, table, what);
  if (arm.equal_time) {
    for (const std::string& other : {arm.equal_time->to, arm.equal_time->of}) {
      if (known(other) != earlier.end()) continue;
      refuse_recipe(config, fmt::format("equal_time of {} must name earlier arms", what), other);
    }
  }
  return arm;
}

RecipeHead head_of(const Config& config) {
  RecipeHead head;
  config.read_part(head);
  if (head.seeds.empty() || std::set(head.seeds.begin(), head.seeds.end()).size() != head.seeds.size()) {
    refuse_recipe(config, "seeds must be different numbers", fmt::format("[{}]", fmt::join(head.seeds, ", ")));
  }
  return head;
}

std::vector<ArmText> arms_of(const Config& config) {
  const toml::node* node = config.table().get("arms");
  if (node == nullptr) return {{"main", {}, std::nullopt}};
  const toml::array* array = node->as_array();
  if (array == nullptr || array->empty() || !array->is_array_of_tables()) {
    refuse_recipe(config, "arms must be tables, each begun by [[arms]]", "another type");
  }
  std::vector<ArmText> arms;
  for (const toml::node& table : *array) arms.push_back(arm_of(config, *table.as_table(), arms));
  return arms;
}

void check_run(const RunConfig& config) {
  config.plan->check();
  config.train.check();
  if (config.plan->uses_optimizers()) config.optimizer.check();
  if (config.has_start) config.start.check();
  if (config.has_start && config.start.continues && !config.plan->can_continue()) {
    fail(ExitCode::usage, "config", fmt::format("start.continues must be false for the task {}", config.task), "true");
  }
  checked_product("config", fmt::format("the {} of a run", config.plan->unit()), config.steps(),
                  config.size().units_per_step);
}

// What was trained before is counted: the steps that are left of train.UNIT.
void take_units_before(const Config& config, Arm& arm, int64_t of_start) {
  RunConfig& run = arm.config;
  int64_t& before = run.start.units_before;
  if (before == 0) before = of_start;
  if (of_start != 0 && before != of_start) {
    refuse_recipe(config,
                  fmt::format("start.units_before of {} must be 0 or what {} is trained on, {}", arm.name,
                              run.start.arm, of_start),
                  fmt::to_string(before));
  }
  if (run.train.steps > 0) return;  // of this run alone
  if (before >= run.train.units) {
    refuse_recipe(config,
                  fmt::format("train.{} of {} must be more than the {} of its start", run.train.unit, arm.name, before),
                  fmt::to_string(run.train.units));
  }
  run.train.units -= before;
  run.train.steps = run.steps();
}

void check_start(const Config& config, Arm& arm, const std::vector<Arm>& earlier) {
  if (!arm.config.has_start) return;
  const std::string& from = arm.config.start.arm;
  int64_t units = 0;
  if (!from.empty()) {
    const auto found =
        std::find_if(earlier.begin(), earlier.end(), [&from](const Arm& other) { return other.name == from; });
    if (found == earlier.end()) {
      refuse_recipe(config, fmt::format("start.arm of {} must be an earlier arm", arm.name), from);
    }
    if (arm.config.start.continues && found->equal_time) {
      refuse_recipe(config, fmt::format("start.arm of {} must be an arm of known length", arm.name),
                    from + ", which has equal_time");
    }
    const RunConfig& other = found->config;
    units = checked_sum("config", "units", other.units_before(),
                        checked_product("config", "units", other.steps(), other.size().units_per_step));
  }
  if (arm.config.start.continues) take_units_before(config, arm, units);
}

}  // namespace

void RunConfig::fields(ConfigFields& f) {
  if (!in_recipe) {
    f.field("task", task, "what is trained");
    f.field("arm", arm, "the recipe's arm");
    f.field("seed", seed, "seed of everything that is drawn", {.minimum = 0});
  }
  plan->fields(f);
  train.unit = plan->unit();
  f.section("train", train);
  if (!plan->uses_optimizers()) return;
  f.section("optimizer", optimizer);
  f.section("table_optimizer", table_optimizer);
  f.optional_section("start", has_start, start);
}

RunSize RunConfig::size(const Ranks& ranks) const {
  const bool bfloat16 = wants_bfloat16(train.precision);
  RunSize size = plan->size(batch(), table_optimizer, bfloat16);
  if (ranks.size > 1) {
    const auto part = [&ranks](int64_t all) { return (all + ranks.size - 1) / ranks.size; };
    const BatchShape slice = {part(batch().per_micro_batch()) * train.accumulation, train.accumulation};
    const int64_t units = size.units_per_step;
    size = plan->size(slice, table_optimizer, bfloat16);
    size.units_per_step = units;
    for (MemoryEstimate* estimate : {&size.memory, &size.disk}) {
      for (auto& [purpose, bytes] : *estimate) {
        if (purpose == "tables" || purpose == "row optimiser state") bytes = part(bytes);
      }
    }
    bool columns = false;
    for (const TableExchange& exchange : size.exchanges) {  // by columns every rank has what is of a whole row
      if (parts_of(exchange.shard, ranks.size, exchange.reads) == TableParts::rows) continue;
      for (auto& [purpose, bytes] : exchange.mapped ? size.disk : size.memory) {
        if (purpose == "row optimiser state") bytes += exchange.row_bytes - part(exchange.row_bytes);
      }
      columns = true;
    }
    for (auto& [purpose, bytes] : size.memory) {  // and the references of all tokens
      if (columns && purpose == "row gradient") bytes = checked_product("config", purpose, bytes, ranks.size);
    }
  }
  if (plan->uses_optimizers()) {
    size.memory.emplace_back("dense optimiser state", checked_product("config", "dense optimiser state",
                                                                      size.parameters_dense, optimizer.state_bytes()));
  }
  return size;
}

int64_t RunConfig::steps() const {
  return train.steps_for(size().units_per_step);
}

const Arm& Recipe::arm(const std::string& wanted) const {
  std::vector<std::string> names;
  for (const Arm& arm : arms) {
    if (arm.name == wanted) return arm;
    names.push_back(arm.name);
  }
  fail(ExitCode::usage, name, fmt::format("an arm must be one of {}", fmt::join(names, ", ")), wanted);
}

RunConfig Recipe::run(const Arm& arm, int64_t seed) const {
  RunConfig config = arm.config;
  config.seed = seed;
  std::string& weights = config.start.weights;
  for (const auto& [word, value] :
       {std::pair<std::string, std::string>{"{arm}", arm.name}, {"{seed}", std::to_string(seed)}}) {
    for (size_t at = 0; (at = weights.find(word, at)) != std::string::npos; at += value.size()) {
      weights.replace(at, word.size(), value);
    }
  }
  return config;
}

Recipe read_recipe(Config config, const std::vector<std::string>& setting_texts, const std::vector<TaskKind>& tasks,
                   const std::vector<std::string>& selected_names) {
  const std::vector<Setting> settings = settings_of(setting_texts);
  std::vector<bool> used(settings.size(), false);
  for (size_t i = 0; i < settings.size(); ++i) {
    if (!is_head_key(settings[i].key)) continue;
    config.set(settings[i].assignment);
    used[i] = true;
  }
  const RecipeHead head = head_of(config);
  Recipe recipe{config.name(), head.seeds, {}};
  const std::vector<ArmText> arms = arms_of(config);
  std::vector<std::string> selected = selected_names;
  if (selected.empty()) {
    for (const ArmText& arm : arms) selected.push_back(arm.name);
  }
  const TaskKind& kind = kind_of(head.task, tasks, config);
  const std::vector<ConfigKey> known = keys_of(blank_config(kind));
  for (const ArmText& text : arms) {
    LayeredConfig layers(config, kind);
    for (const toml::table* overrides : text.layers) {
      std::vector<std::pair<std::string, const toml::node*>> leaves;
      add_leaves(*overrides, "", leaves);
      std::vector<std::string> keys;
      for (const auto& [key, node] : leaves) keys.push_back(key);
      layers.add_layer(keys, [&](Config& own, size_t i) { own.set(keys[i], *leaves[i].second); });
    }
    if (std::find(selected.begin(), selected.end(), text.name) != selected.end()) {
      add_settings(layers, text.name, settings, known, used);
    }
    Arm arm{text.name, text.equal_time, blank_config(kind)};
    arm.config.arm = text.name;
    layers.config().read(arm.config, head_keys());
    arm.config.in_recipe = false;
    check_run(arm.config);
    check_start(config, arm, recipe.arms);
    recipe.arms.push_back(std::move(arm));
  }
  for (const std::string& name : selected) recipe.arm(name);
  for (size_t i = 0; i < settings.size(); ++i) {
    if (!used[i]) refuse_unused(settings[i], selected);
  }
  return recipe;
}

std::string recipe_keys(const TaskKind& kind) {
  RecipeHead head;
  head.task = kind.name;
  std::vector<ConfigKey> keys = keys_of(head);
  for (ConfigKey& key : keys_of(blank_config(kind))) keys.push_back(std::move(key));
  return keys_text(keys);
}

RunConfig read_run_config(const std::filesystem::path& path, const std::vector<TaskKind>& tasks) {
  return as_input([&] {
    const Config text = Config::from_file(path);
    struct Head {
      std::string task;
      void fields(ConfigFields& f) { f.field("task", task, "what is trained"); }
    } head;
    text.read_part(head);
    RunConfig config;
    config.plan = kind_of(head.task, tasks, text).plan();
    text.read(config);
    check_run(config);
    return config;
  });
}

}  // namespace loci
