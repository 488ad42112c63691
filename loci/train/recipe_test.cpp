#include "loci/train/recipe.h"

#include <gtest/gtest.h>

#include "loci/base/durable_file.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_task.h"

namespace loci {
namespace {

Recipe read(const std::string& text, const std::vector<std::string>& settings = {}) {
  return read_recipe(Config::from_text(text, "recipe.toml"), settings, tiny_tasks());
}

int64_t rows_of(const Arm& arm) {
  return dynamic_cast<const TinyPlan&>(*arm.config.plan).model.rows;
}

constexpr const char* kArms = R"(
task = "tiny"
seeds = [3, 5]
[train]
steps = 7
batch = 4
[[arms]]
name = "base"
[[arms]]
name = "wide"
set = {"model.rows" = 64, "train.batch" = 8}
[[arms]]
name = "wider"
from = "wide"
[arms.set.model]
rows = 128
[[arms]]
name = "timed"
equal_time = {to = "wide", of = "base"}
)";

TEST(Recipe, ArmsChangeTheCommonSettings) {
  const Recipe recipe = read(kArms);
  EXPECT_EQ(recipe.seeds, (std::vector<int64_t>{3, 5}));
  ASSERT_EQ(recipe.arms.size(), 4u);
  EXPECT_EQ(rows_of(recipe.arm("base")), 32);
  EXPECT_EQ(rows_of(recipe.arm("wide")), 64);
  EXPECT_EQ(rows_of(recipe.arm("wider")), 128);
  EXPECT_EQ(recipe.arm("wider").config.train.batch, 8);
  EXPECT_EQ(recipe.arm("timed").equal_time->to, "wide");
  EXPECT_EQ(recipe.run(recipe.arm("wide"), 5).seed, 5);
  EXPECT_EQ(recipe.run(recipe.arm("wide"), 5).arm, "wide");
}

TEST(Recipe, SettingsComeBeforeArms) {
  const Recipe recipe = read(kArms, {"model.rows=16", "train.steps=9"});
  EXPECT_EQ(rows_of(recipe.arm("base")), 16);
  EXPECT_EQ(rows_of(recipe.arm("wide")), 64);
  EXPECT_EQ(recipe.arm("wide").config.train.steps, 9);
}

TEST(Recipe, WithoutArmsThereIsOneRun) {
  const Recipe recipe = read("task = \"tiny\"");
  ASSERT_EQ(recipe.arms.size(), 1u);
  EXPECT_EQ(recipe.arms[0].name, "main");
  EXPECT_EQ(recipe.seeds, std::vector<int64_t>{0});
}

TEST(Recipe, MistakesAreToldInOneLine) {
  const auto refused = [](const std::string& text, const std::string& part) {
    expect_error(ExitCode::usage, part, [&] { read(text); });
  };
  refused("task = \"tinny\"", "task must be one of \"tiny\", got \"tinny\"");
  refused("task = \"tiny\"\nsteps = 3", "unknown key steps");
  refused("task = \"tiny\"\nseeds = [1, 1]", "seeds must be different");
  refused("task = \"tiny\"\nseeds = []", "seeds must be different");
  refused("task = \"tiny\"\n[model]\nrow = 3", "did you mean rows");
  refused("task = \"tiny\"\n[model]\nrows = \"many\"", "rows");
  refused("task = \"tiny\"\narms = 3", "arms must be tables");
  refused("task = \"tiny\"\n[[arms]]\nset = {}", "name of an arm");
  refused("task = \"tiny\"\n[[arms]]\nname = \"../a\"", "letters");
  refused("task = \"tiny\"\n[[arms]]\nname = \"a\"\n[[arms]]\nname = \"a\"", "a twice");
  refused("task = \"tiny\"\n[[arms]]\nname = \"a\"\nseet = {}", "did you mean set");
  refused("task = \"tiny\"\n[[arms]]\nname = \"a\"\nfrom = \"b\"", "earlier arm");
  refused("task = \"tiny\"\n[[arms]]\nname = \"a\"\nset = {\"model.roows\" = 1}", "did you mean rows");
  refused("task = \"tiny\"\n[[arms]]\nname = \"a\"\nequal_time = {to = \"x\", of = \"y\"}", "earlier arms");
  refused("task = \"tiny\"\n[train]\nbatch = 3\naccumulation = 2", "multiple of train.accumulation");
}

TEST(Recipe, ARunsConfigurationReadsBack) {
  const Recipe recipe = read(kArms);
  const TemporaryFolder folder;
  const std::string text = Config::write(recipe.run(recipe.arm("wider"), 5));
  write_file_durably(folder / "config.toml", text);
  const RunConfig back = read_run_config(folder / "config.toml", tiny_tasks());
  EXPECT_EQ(Config::write(back), text);
  EXPECT_EQ(back.seed, 5);
  EXPECT_EQ(back.steps(), 7);
}

TEST(Recipe, StepsComeFromTokens) {
  TrainOptions options;
  options.tokens = 1000;
  EXPECT_EQ(options.steps_for(100), 10);
  EXPECT_EQ(options.steps_for(300), 3);
  EXPECT_EQ(options.steps_for(100000), 1);
  options.steps = 5;
  EXPECT_EQ(options.steps_for(100), 5);
}

}  // namespace
}  // namespace loci
