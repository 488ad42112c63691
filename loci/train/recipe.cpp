#include "loci/train/recipe.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "loci/train/precision.h"

namespace loci {
namespace {

// The recipe's own keys; the others belong to its runs.
struct RecipeHead {
  std::string task;
  std::vector<int64_t> seeds = {0};
  void fields(ConfigFields& f) {
    f.field("task", task);
    f.field("seeds", seeds, {.minimum = 0});
  }
};

const std::vector<std::string> arm_keys = {"name", "from", "set", "equal_time"};

[[noreturn]] void refuse(const Config& config, std::string_view expected, const std::string& got) {
  fail(ExitCode::usage, config.name(), expected, got);
}

std::shared_ptr<TaskPlan> plan_of(const std::string& task, const std::vector<TaskKind>& tasks, const Config& config) {
  std::vector<std::string> names;
  for (const TaskKind& kind : tasks) {
    if (kind.name == task) return kind.plan();
    names.push_back('"' + kind.name + '"');
  }
  refuse(config, fmt::format("task must be one of {}", fmt::join(names, ", ")), fmt::format("\"{}\"", task));
}

void refuse_unknown_keys(const Config& config, const toml::table& table, const std::vector<std::string>& known,
                         const std::string& what) {
  for (const auto& [key, node] : table) {
    if (std::find(known.begin(), known.end(), key.str()) != known.end()) continue;
    const std::string near = nearest_word(key.str(), known);
    refuse(config, fmt::format("the keys of {} must be {}", what, fmt::join(known, ", ")),
           fmt::format("{}{}", key.str(), near.empty() ? "" : fmt::format(" (did you mean {}?)", near)));
  }
}

std::string word_of(const Config& config, const toml::table& table, const std::string& key, const std::string& what) {
  const toml::node* node = table.get(key);
  const auto* text = node == nullptr ? nullptr : node->as_string();
  if (text == nullptr || text->get().empty()) {
    refuse(config, fmt::format("{} of {} must be a name", key, what), node == nullptr ? "nothing" : "another type");
  }
  return text->get();
}

// Arm names are folders.
void check_name(const Config& config, const std::string& name) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  };
  if (!std::all_of(name.begin(), name.end(), plain) || name.front() == '.' || name.size() > 100) {
    refuse(config, "an arm's name must be letters, digits, '-', '_' and '.'", fmt::format("\"{}\"", name));
  }
}

// Leaves of nested tables, with their dotted keys.
void apply(Config& config, const toml::table& overrides, const std::string& prefix) {
  for (const auto& [key, node] : overrides) {
    const std::string path = prefix.empty() ? std::string(key.str()) : fmt::format("{}.{}", prefix, key.str());
    if (const toml::table* table = node.as_table(); table != nullptr && !table->empty()) {
      apply(config, *table, path);
    } else {
      config.set(path, node);
    }
  }
}

struct ArmText {
  std::string name;
  std::vector<const toml::table*> overrides;  // first those of `from`
  std::optional<EqualTime> equal_time;
};

std::optional<EqualTime> equal_time_of(const Config& config, const toml::table& table, const std::string& what) {
  const toml::node* node = table.get("equal_time");
  if (node == nullptr) return std::nullopt;
  if (!node->is_table()) {
    refuse(config, fmt::format("equal_time of {} must be {{to = ARM, of = ARM}}", what), "another type");
  }
  refuse_unknown_keys(config, *node->as_table(), {"to", "of"}, fmt::format("equal_time of {}", what));
  return EqualTime{word_of(config, *node->as_table(), "to", what), word_of(config, *node->as_table(), "of", what)};
}

ArmText arm_of(const Config& config, const toml::table& table, const std::vector<ArmText>& earlier) {
  ArmText arm;
  arm.name = word_of(config, table, "name", "an arm");
  const std::string what = fmt::format("arm {}", arm.name);
  check_name(config, arm.name);
  refuse_unknown_keys(config, table, arm_keys, what);
  const auto known = [&earlier](const std::string& name) {
    return std::find_if(earlier.begin(), earlier.end(), [&name](const ArmText& other) { return other.name == name; });
  };
  if (known(arm.name) != earlier.end()) {
    refuse(config, "arms must have different names", fmt::format("{} twice", arm.name));
  }
  if (table.contains("from")) {
    const std::string from = word_of(config, table, "from", what);
    const auto other = known(from);
    if (other == earlier.end()) refuse(config, fmt::format("from of {} must be an earlier arm", what), from);
    arm.overrides = other->overrides;
  }
  if (const toml::node* set = table.get("set")) {
    if (!set->is_table()) refuse(config, fmt::format("set of {} must be a table", what), "another type");
    arm.overrides.push_back(set->as_table());
  }
  arm.equal_time = equal_time_of(config, table, what);
  if (arm.equal_time) {
    for (const std::string& other : {arm.equal_time->to, arm.equal_time->of}) {
      if (known(other) != earlier.end()) continue;
      refuse(config, fmt::format("equal_time of {} must name earlier arms", what), other);
    }
  }
  return arm;
}

std::vector<ArmText> arms_of(const Config& config) {
  const toml::node* node = config.table().get("arms");
  if (node == nullptr) return {{"main", {}, std::nullopt}};
  const toml::array* array = node->as_array();
  if (array == nullptr || array->empty() || !array->is_array_of_tables()) {
    refuse(config, "arms must be tables, each begun by [[arms]]", "another type");
  }
  std::vector<ArmText> arms;
  for (const toml::node& table : *array) arms.push_back(arm_of(config, *table.as_table(), arms));
  return arms;
}

void check(const RunConfig& config) {
  config.plan->check();
  config.train.check();
}

}  // namespace

void RunConfig::fields(ConfigFields& f) {
  if (!in_recipe) {
    f.field("task", task);
    f.field("arm", arm);
    f.field("seed", seed, {.minimum = 0});
  }
  plan->fields(f);
  f.section("train", train);
  f.section("optimizer", optimizer);
  f.section("table_optimizer", table_optimizer);
}

RunSize RunConfig::size() const {
  return plan->size(batch(), table_optimizer, wants_bfloat16(train.precision));
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
  return config;
}

Recipe read_recipe(Config config, const std::vector<std::string>& settings, const std::vector<TaskKind>& tasks) {
  for (const std::string& setting : settings) config.set(setting);
  RecipeHead head;
  std::vector<std::string> others;
  for (const auto& [key, node] : config.table()) {
    if (key.str() != "task" && key.str() != "seeds") others.emplace_back(key.str());
  }
  config.read(head, others);
  if (head.seeds.empty() || std::set(head.seeds.begin(), head.seeds.end()).size() != head.seeds.size()) {
    refuse(config, "seeds must be different numbers", fmt::format("[{}]", fmt::join(head.seeds, ", ")));
  }
  Recipe recipe{config.name(), head.seeds, {}};
  for (const ArmText& text : arms_of(config)) {
    Config own = config;
    for (const toml::table* overrides : text.overrides) apply(own, *overrides, "");
    Arm arm{text.name, text.equal_time, {}};
    arm.config.task = head.task;
    arm.config.arm = text.name;
    arm.config.plan = plan_of(head.task, tasks, config);
    arm.config.in_recipe = true;
    own.read(arm.config, {"task", "seeds", "arms"});
    arm.config.in_recipe = false;
    check(arm.config);
    recipe.arms.push_back(std::move(arm));
  }
  return recipe;
}

RunConfig read_run_config(const std::filesystem::path& path, const std::vector<TaskKind>& tasks) {
  return as_input([&] {
    const Config text = Config::from_file(path);
    struct Head {
      std::string task;
      void fields(ConfigFields& f) { f.field("task", task); }
    } head;
    std::vector<std::string> others;
    for (const auto& [key, node] : text.table()) {
      if (key.str() != "task") others.emplace_back(key.str());
    }
    text.read(head, others);
    RunConfig config;
    config.plan = plan_of(head.task, tasks, text);
    text.read(config);
    check(config);
    return config;
  });
}

}  // namespace loci
