// The keys of every task's recipes: listed, read back, and at the ends of their ranges.
#include <gtest/gtest.h>

#include "loci/base/check.h"
#include "loci/tasks/all.h"
#include "loci/train/recipe_layers.h"

namespace loci {
namespace {

TEST(RecipeKeys, TheListOfATaskIsARecipeOfItsDefaults) {
  for (const TaskKind& kind : all_tasks()) {
    const auto written = [](const std::string& text) {
      return Config::write(read_recipe(Config::from_text(text), {}, all_tasks()).arms[0].config);
    };
    EXPECT_EQ(written(recipe_keys(kind)), written(fmt::format("task = \"{}\"", kind.name)));
    for (const ConfigKey& key : keys_of(blank_config(kind))) {
      EXPECT_GT(key.help.size(), 8u) << key.key();
      EXPECT_LT(key.help.size(), 100u) << key.key();
    }
  }
}

// One key at a time, at the largest number of its type and of its range: the sizes of a run must hold, or be refused.
TEST(RecipeKeys, NoIntegerOverflowsTheSizesOfARun) {
  for (const TaskKind& kind : all_tasks()) {
    int64_t taken = 0;
    for (const ConfigKey& key : keys_of(blank_config(kind))) {
      if (!key.type.starts_with("an integer")) continue;
      const size_t to = key.type.rfind(' ');
      const std::string most = key.type.find(" to ") == std::string::npos ? "" : key.type.substr(to + 1);
      for (const std::string& value : {std::string("9223372036854775807"), most}) {
        if (value.empty()) continue;
        std::vector<std::string> settings = {fmt::format("main:{}={}", key.key(), value)};
        if (key.section.starts_with("model.memory")) settings.emplace_back("main:model.memory.layers=[0]");
        if (key.section == "model.ngram") settings.emplace_back("main:model.ngram.layers=[0]");
        try {
          const Recipe recipe =
              read_recipe(Config::from_text(fmt::format("task = \"{}\"", kind.name)), settings, all_tasks());
          const RunSize size = recipe.arms[0].config.size();
          EXPECT_GT(size.units_per_step, 0) << settings[0];
          for (const auto& [purpose, bytes] : size.memory) EXPECT_GE(bytes, 0) << settings[0] << " " << purpose;
          ++taken;
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ExitCode::usage) << settings[0] << ": " << error.what();
        }
      }
    }
    EXPECT_GT(taken, 10) << kind.name;
  }
}

}  // namespace
}  // namespace loci
