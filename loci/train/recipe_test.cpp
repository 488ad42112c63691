#include "loci/train/recipe.h"

#include <gtest/gtest.h>

#include "loci/base/durable_file.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_task.h"

namespace loci {
namespace {

Recipe read_tiny(const std::string& text, const std::vector<std::string>& settings = {},
                 const std::vector<std::string>& selected = {}) {
  return read_recipe(Config::from_text(text, "recipe.toml"), settings, tiny_tasks(), selected);
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
  const Recipe recipe = read_tiny(kArms);
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

TEST(Recipe, AnArmStartsFromAnEarlierOne) {
  const auto with = [](const std::string& start) {
    return read_tiny(std::string(kArms) + "[[arms]]\nname = \"late\"\nset = {start = {" + start + "}}\n");
  };
  const RunConfig late = with("arm = \"wide\"").arm("late").config;
  EXPECT_TRUE(late.has_start);
  EXPECT_EQ(late.start.source(), "wide");
  EXPECT_FALSE(read_tiny(kArms).arm("wide").config.has_start);
  for (const char* other : {"late", "none"}) {
    expect_error(ExitCode::usage, fmt::format("start.arm of late must be an earlier arm, got {}", other),
                 [&] { with(fmt::format("arm = \"{}\"", other)); });
  }
  expect_error(ExitCode::usage, "start.weights or start.arm must be given, got neither", [&] { with(""); });
  expect_error(ExitCode::usage, "start.arm must be left out", [&] { with("arm = \"wide\", weights = \"x\""); });
  const TemporaryFolder folder;
  write_file_durably(folder / "config.toml", Config::write(late));
  EXPECT_EQ(read_run_config(folder / "config.toml", tiny_tasks()).start.arm, "wide");
}

TEST(Recipe, AnArmThatContinuesCountsTheUnitsOfItsStart) {
  const auto with = [](const std::string& late, const std::string& settings = "train.images = 100") {
    return read_tiny(
        fmt::format("task = \"tiny\"\n{}\ntrain.batch = 4\n[[arms]]\nname = \"base\"\nset = "
                    "{{\"train.images\" = 40}}\n[[arms]]\nname = \"late\"\nset = {{start = {{{}}}}}\n",
                    settings, late));
  };
  const Arm late = with("arm = \"base\", continues = true").arm("late");
  EXPECT_EQ(late.config.units_before(), 40);
  EXPECT_EQ(late.config.steps(), 15);
  EXPECT_EQ(with("arm = \"base\"").arm("late").config.steps(), 25);
  EXPECT_EQ(with("arm = \"base\"").arm("late").config.units_before(), 0);
  EXPECT_EQ(with("weights = \"x\", continues = true, units_before = 60").arm("late").config.steps(), 10);
  EXPECT_EQ(with("arm = \"base\", continues = true", "train.steps = 7").arm("late").config.steps(), 7);
  // An arm behind an arm behind an arm.
  const Recipe chain = read_tiny(
      "task = \"tiny\"\ntrain = {images = 100, batch = 4}\n[[arms]]\nname = \"a\"\nset = {\"train.images\" = 20}\n"
      "[[arms]]\nname = \"b\"\nset = {train = {images = 60}, start = {arm = \"a\", continues = true}}\n"
      "[[arms]]\nname = \"c\"\nset = {start = {arm = \"b\", continues = true}}\n");
  EXPECT_EQ(chain.arm("c").config.units_before(), 60);
  EXPECT_EQ(chain.arm("c").config.steps(), 10);
  const TemporaryFolder folder;
  write_file_durably(folder / "config.toml", Config::write(late.config));
  const RunConfig read = read_run_config(folder / "config.toml", tiny_tasks());
  EXPECT_EQ(read.steps(), 15);
  EXPECT_EQ(read.units_before(), 40);
  const auto refused = [&](const std::string& start, const std::string& message,
                           const std::string& settings = "train.images = 100") {
    expect_error(ExitCode::usage, message, [&] { with(start, settings); });
  };
  refused("arm = \"base\", continues = true, units_before = 41",
          "start.units_before of late must be 0 or what base is trained on, 40, got 41");
  refused("weights = \"x\", continues = true", "start.units_before must say what start.weights were trained on, got 0");
  refused("weights = \"x\", continues = true, units_before = 100",
          "train.images of late must be more than the 100 of its start, got 100");
  refused("arm = \"base\", units_before = 40", "start.units_before");
  refused("arm = \"base\", continues = true", "start.continues must be false for the task tiny, got true",
          "train.images = 100\nmodel.width = 5");
}

TEST(Recipe, WeightsMayNameTheRunByArmAndSeed) {
  const Recipe recipe = read_tiny(std::string(kArms) + "[start]\nweights = \"out/{arm}/seed-{seed}/{seed}\"\n");
  EXPECT_EQ(recipe.run(recipe.arm("wide"), 5).start.weights, "out/wide/seed-5/5");
  EXPECT_EQ(recipe.arm("wide").config.start.weights, "out/{arm}/seed-{seed}/{seed}");
}

TEST(Recipe, SettingsWinOverArms) {
  const Recipe recipe = read_tiny(kArms, {"model.rows=16", "train.steps=9"});
  for (const char* arm : {"base", "wide", "wider"}) EXPECT_EQ(rows_of(recipe.arm(arm)), 16) << arm;
  EXPECT_EQ(recipe.arm("wide").config.train.steps, 9);
}

TEST(Recipe, ASettingOfOneArmWinsOverThoseOfAll) {
  const Recipe recipe = read_tiny(kArms, {"model.rows=16", "wide:model.rows=8"});
  EXPECT_EQ(rows_of(recipe.arm("base")), 16);
  EXPECT_EQ(rows_of(recipe.arm("wide")), 8);
  EXPECT_EQ(rows_of(recipe.arm("wider")), 16);  // from = "wide" takes the recipe's overrides alone
}

TEST(Recipe, SettingsGoToTheSelectedArmsAlone) {
  const Recipe recipe = read_tiny(kArms, {"model.rows=16"}, {"wide"});
  EXPECT_EQ(rows_of(recipe.arm("base")), 32);
  EXPECT_EQ(rows_of(recipe.arm("wide")), 16);
  EXPECT_EQ(read_tiny(kArms, {"seeds=[9]"}).seeds, std::vector<int64_t>{9});
}

constexpr const char* kOptional = R"(
task = "tiny"
[train]
images = 100
[optimizer]
beta1 = 0.8
[optimizer.schedule]
final_share = 0.2
[[arms]]
name = "base"
[[arms]]
name = "noisy"
set = {"model.noise.deviation" = 0.5}
[[arms]]
name = "sgd"
set = {"optimizer.kind" = "sgd", "optimizer.momentum" = 0.5}
[[arms]]
name = "long"
set = {"train.steps" = 12}
)";

const TinyPlan& tiny_plan_of(const Recipe& recipe, const char* arm) {
  return dynamic_cast<const TinyPlan&>(*recipe.arm(arm).config.plan);
}

TEST(Recipe, SettingsOfASectionThatMayBeAbsentGoToTheArmsThatHaveIt) {
  const Recipe recipe = read_tiny(kOptional, {"model.noise.deviation=0.25"});
  EXPECT_FALSE(tiny_plan_of(recipe, "base").model.has_noise);
  EXPECT_EQ(tiny_plan_of(recipe, "noisy").model.noise.deviation, 0.25);
  const Recipe added = read_tiny(kOptional, {"base:model.noise.deviation=0.25"});
  EXPECT_EQ(tiny_plan_of(added, "base").model.noise.deviation, 0.25);
  EXPECT_EQ(tiny_plan_of(added, "noisy").model.noise.deviation, 0.5);
}

TEST(Recipe, ALaterLayerDropsTheKeysThatItLeavesWithoutAnEffect) {
  const Recipe recipe = read_tiny(kOptional);
  EXPECT_EQ(recipe.arm("sgd").config.optimizer.kind, DenseRule::sgd);
  EXPECT_EQ(recipe.arm("sgd").config.optimizer.momentum, 0.5);
  EXPECT_EQ(recipe.arm("base").config.optimizer.beta1, 0.8);
  EXPECT_EQ(recipe.arm("long").config.steps(), 12);
  EXPECT_EQ(read_tiny(kOptional, {"train.images=64"}).arm("long").config.steps(), 4);
  EXPECT_EQ(read_tiny(kOptional, {"optimizer.schedule.kind=constant"}).arm("base").config.optimizer.schedule.kind,
            ScheduleKind::constant);
}

TEST(Recipe, SettingsWithoutAnEffectAreRefused) {
  const auto refused = [](const std::vector<std::string>& settings, const std::string& part,
                          const std::vector<std::string>& selected = {}) {
    expect_error(ExitCode::usage, part, [&] { read_tiny(kOptional, settings, selected); });
  };
  refused({"model.noise.deviation=0.25"}, "model.noise.deviation must have an effect on one of the arms base",
          {"base"});
  refused({"model.rows=3", "model.rows=4"}, "a key must be set once, got model.rows twice");
  refused({"nosy:model.rows=3"}, "the arm must be one of base, noisy, sgd, long, got nosy");
  refused({"noisy:model.rows=3"}, "the arm must be one of base, got noisy", {"base"});
  refused({"base:model.rows=4", "model.rows=3"}, "model.rows must have an effect", {"base"});
  refused({"base:seeds=[1]"}, "the key must be one of a run");
  refused({"arms=[]"}, "the key must be one of a run");
  refused({"optimizer.momentum=0.5"}, "only where optimizer.kind is \"sgd\"", {"base"});
  refused({"train.steps=3", "train.images=9"}, "train.images must be left out");
  refused({"model.roows=3"}, "did you mean rows");
  refused({"train.steps"}, "KEY=VALUE");
  refused({}, "an arm must be one of base", {"basis"});
}

TEST(Recipe, KeysOfARunThatCannotBeAreRefused) {
  const auto refused = [](const std::string& text, const std::string& part) {
    expect_error(ExitCode::usage, part, [&] { read_tiny("task = \"tiny\"\n" + text); });
  };
  refused("[train]\nsteps = 3\nimages = 5", "train.images must be left out, for it has an effect only where");
  refused("[optimizer]\nlearning_rate = inf", "a finite number of at least 0, got inf");
  refused("[optimizer]\nkind = \"sgd\"\nbeta1 = 0.5", "only where optimizer.kind is \"adamw\"");
  refused("[train]\nsteps = 1e12\nbatch = 1048576\n[optimizer.schedule]\nkind = \"multi_step\"",
          "optimizer.schedule.at must be ascending steps");
  for (const char* key : {"seeds = [1]", "task = \"tiny\"", "arms = []"}) {
    refused(fmt::format("[[arms]]\nname = \"a\"\nset = {{{}}}", key), "set of arm a must hold keys of a run");
  }
}

TEST(Recipe, TheListOfKeysIsARecipeOfTheDefaults) {
  const std::string keys = recipe_keys(tiny_tasks()[0]);
  const Recipe recipe = read_tiny(keys);
  EXPECT_EQ(Config::write(recipe.arms[0].config), Config::write(read_tiny("task = \"tiny\"").arms[0].config));
  for (const char* line : {"\nbatch = 16 ", "\n# may be absent: [model.noise]\n", "\n# momentum = 0.9 ",
                           "(only where optimizer.kind is \"sgd\")", "# an integer from 1 to 1048576\n"}) {
    EXPECT_NE(keys.find(line), std::string::npos) << line << "\n" << keys;
  }
}

TEST(Recipe, WithoutArmsThereIsOneRun) {
  const Recipe recipe = read_tiny("task = \"tiny\"");
  ASSERT_EQ(recipe.arms.size(), 1u);
  EXPECT_EQ(recipe.arms[0].name, "main");
  EXPECT_EQ(recipe.seeds, std::vector<int64_t>{0});
}

TEST(Recipe, MistakesAreToldInOneLine) {
  const auto refused = [](const std::string& text, const std::string& part) {
    expect_error(ExitCode::usage, part, [&] { read_tiny(text); });
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
  const Recipe recipe = read_tiny(kArms);
  const TemporaryFolder folder;
  const std::string text = Config::write(recipe.run(recipe.arm("wider"), 5));
  write_file_durably(folder / "config.toml", text);
  const RunConfig back = read_run_config(folder / "config.toml", tiny_tasks());
  EXPECT_EQ(Config::write(back), text);
  EXPECT_EQ(back.seed, 5);
  EXPECT_EQ(back.steps(), 7);
}

TEST(Recipe, StepsComeFromUnits) {
  TrainOptions options;
  options.units = 1000;
  EXPECT_EQ(options.steps_for(100), 10);
  EXPECT_EQ(options.steps_for(300), 3);
  EXPECT_EQ(options.steps_for(100000), 1);
  options.steps = 5;
  EXPECT_EQ(options.steps_for(100), 5);
}

}  // namespace
}  // namespace loci
