#include "loci/train/experiment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <vector>

#include "loci/base/durable_file.h"
#include "loci/base/stop_signal.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_task.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kText = R"(
task = "tiny"
seeds = [0, 1]
[train]
steps = 6
batch = 4
threads = 1
precision = "float32"
[[arms]]
name = "base"
[[arms]]
name = "wide"
set = {"model.rows" = 64}
[[arms]]
name = "timed"
equal_time = {to = "wide", of = "base"}
)";

Recipe recipe(const std::vector<std::string>& settings = {}) {
  return read_recipe(Config::from_text(kText, "recipe.toml"), settings, tiny_tasks());
}

ExperimentOptions options_for(const fs::path& out) {
  ExperimentOptions options;
  options.out = out;
  options.quiet = true;
  options.turn_seconds = 0.001;
  return options;
}

TEST(Experiment, RunsEveryArmAndSeed) {
  const TemporaryFolder folder;
  Experiment experiment(recipe(), options_for(folder / "out"));
  const Summary results = experiment.run();
  ASSERT_EQ(results.runs.size(), 6u);
  for (const RunResult& r : results.runs) {
    EXPECT_TRUE(fs::exists(folder / "out" / r.arm / fmt::format("seed-{}", r.seed) / "result.json"));
    EXPECT_GT(*r.units_per_second_inference, 0);
    EXPECT_EQ(r.measures.at("hits"), 0.5);
  }
  EXPECT_EQ(results.runs[1].arm, "wide");
  EXPECT_EQ(results.runs[1].parameters_table, 64 * 4);
  const auto summary = nlohmann::json::parse(read_text_file(folder / "out" / "summary.json"));
  EXPECT_EQ(summary["unit"], "images");
  EXPECT_EQ(summary["measures"][0]["name"], "distance");
  EXPECT_EQ(summary["runs"].size(), 6u);
  EXPECT_EQ(summary["runs"][5]["arm"], "timed");
  EXPECT_EQ(summary["runs"][5]["as_long_as"], "wide");
}

// An input of width 64 is made in 16 times the work of one of width 4.
TEST(Experiment, AnArmOfEqualTimeGetsItsStepsFromPacesInTurns) {
  const TemporaryFolder folder;
  const fs::path out = folder / "out";
  ExperimentOptions options = options_for(out);
  options.arms = {"base", "wide"};
  const Recipe slow_wide = recipe({"wide:model.width=64"});
  Experiment(slow_wide, options).run();
  const std::string before = read_text_file(out / "wide" / "seed-0" / "metrics.jsonl");
  options.arms = {"timed"};
  std::vector<int64_t> steps;
  TinyPlan::hooks.before_step = [&steps](int64_t step) { steps.push_back(step); };
  Experiment(slow_wide, options).run();
  TinyPlan::hooks = {};
  EXPECT_GT(read_run_config(out / "timed" / "seed-0" / "config.toml", tiny_tasks()).train.steps, 6);
  EXPECT_EQ(read_text_file(out / "wide" / "seed-0" / "metrics.jsonl"), before);
  ASSERT_GE(steps.size(), 26u);                                        // both: three, and ten turns of one at least
  EXPECT_GE(*std::min_element(steps.begin(), steps.begin() + 26), 6);  // past the last
  std::set<std::string> left;
  for (const auto& entry : fs::directory_iterator(out)) left.insert(entry.path().filename().string());
  EXPECT_EQ(left, (std::set<std::string>{"base", "summary.json", "timed", "wide"}));
}

// A run of equal time has other steps than its recipe says. What counts steps must not go back.
TEST(Experiment, ThePaceOfAnArmOfEqualTimeGoesOnFromItsOwnLastStep) {
  const TemporaryFolder folder;
  const std::string text =
      std::string(kText) + "[[arms]]\nname = \"again\"\nequal_time = {to = \"timed\", of = \"timed\"}";
  const Recipe twice = read_recipe(Config::from_text(text, "recipe.toml"), {"wide:model.width=64"}, tiny_tasks());
  ExperimentOptions options = options_for(folder / "out");
  options.seeds = {0};
  options.arms = {"base", "wide", "timed"};
  Experiment(twice, options).run();
  const int64_t last = read_run_config(folder / "out/timed/seed-0/config.toml", tiny_tasks()).train.steps;
  ASSERT_GT(last, 6);
  std::vector<int64_t> steps;
  TinyPlan::hooks.before_step = [&steps](int64_t step) { steps.push_back(step); };
  options.arms = {"again"};
  Experiment(twice, options).run();
  TinyPlan::hooks = {};
  ASSERT_GE(steps.size(), 26u);
  EXPECT_GE(*std::min_element(steps.begin(), steps.begin() + 26), last);
}

TEST(Experiment, FinishedRunsAreKeptAndBrokenOnesGoOn) {
  const TemporaryFolder folder;
  auto options = options_for(folder / "out");
  int count = 0;
  TinyPlan::hooks.before_step = [&count](int64_t) {
    if (++count == 9) raise(SIGINT);  // in the second run
  };
  EXPECT_THROW(Experiment(recipe(), options).run(), Interrupted);
  TinyPlan::hooks = {};
  expect_error(ExitCode::usage, "--resume", [&] { Experiment(recipe(), options).run(); });
  const auto before = fs::last_write_time(folder / "out" / "base" / "seed-0" / "result.json");
  options.resume = true;
  const auto results = Experiment(recipe(), options).run();
  EXPECT_EQ(results.runs.size(), 6u);
  EXPECT_EQ(fs::last_write_time(folder / "out" / "base" / "seed-0" / "result.json"), before);
  std::ifstream log(folder / "out" / "wide" / "seed-0" / "metrics.jsonl");
  int starts = 0;
  for (std::string line; std::getline(log, line);) starts += nlohmann::json::parse(line)["kind"] == "start";
  EXPECT_EQ(starts, 2);
}

TEST(Experiment, ChosenArmsAndSeeds) {
  const TemporaryFolder folder;
  auto options = options_for(folder / "out");
  options.arms = {"base"};
  options.seeds = {1};
  const auto results = Experiment(recipe(), options).run();
  ASSERT_EQ(results.runs.size(), 1u);
  EXPECT_EQ(results.runs[0].seed, 1);
  options.seeds = {0, 1};
  options.arms = {"wide"};
  EXPECT_EQ(Experiment(recipe(), options).run().runs.size(), 3u);  // the summary keeps the earlier run
  options.arms = {"timed"};
  options.seeds = {8};
  expect_error(ExitCode::usage, "arm timed needs a finished run of wide",
               [&] { Experiment(recipe({"seeds=[8]"}), options).run(); });
  expect_error(ExitCode::usage, "must be one of the recipe's 0, 1", [&] { Experiment(recipe(), options); });
  options.seeds = {1, 1};
  expect_error(ExitCode::usage, "--seed: each must be given once, got 1 twice", [&] { Experiment(recipe(), options); });
  options.seeds = {1};
  options.arms = {"none"};
  expect_error(ExitCode::usage, "one of base, wide, timed", [&] { Experiment(recipe(), options); });
}

// At a rate of 0 a run ends with the weights that it began with.
Recipe recipe_with_late(const std::vector<std::string>& settings = {}, const std::string& start = "arm = \"base\"") {
  const std::string late = fmt::format(
      "[[arms]]\nname = \"late\"\n[arms.set]\nstart = {{{}}}\noptimizer = {{learning_rate = 0}}\n"
      "table_optimizer = {{learning_rate = 0}}\n",
      start);
  return read_recipe(Config::from_text(kText + late, "recipe.toml"), settings, tiny_tasks());
}

std::string model_of(const fs::path& run) {
  return read_text_file(run / "step-6/table.tiny.values.safetensors");
}

TEST(Experiment, AnArmStartsFromTheWeightsOfAnother) {
  const TemporaryFolder folder;
  const fs::path out = folder / "out";
  ExperimentOptions options = options_for(out);
  options.arms = {"base", "late"};
  const Summary summary = Experiment(recipe_with_late(), options).run();
  for (const int seed : {0, 1}) {
    const std::string run = fmt::format("seed-{}", seed);
    EXPECT_EQ(model_of(out / "late" / run), model_of(out / "base" / run));
  }
  EXPECT_NE(model_of(out / "late/seed-0"), model_of(out / "late/seed-1"));
  EXPECT_EQ(summary.runs[1].arm, "late");
  EXPECT_EQ(summary.runs[1].starts_from, "base");
  const std::string log = read_text_file(out / "late/seed-0/metrics.jsonl");
  EXPECT_EQ(nlohmann::json::parse(log.substr(0, log.find('\n')))["starts_from"], "base");

  // The same from files, which --set prefers to the arm's own key.
  options.out = folder / "files";
  options.arms = {"late"};
  const std::string source = (out / "base/seed-1").string();
  const Recipe files = recipe_with_late({"start.weights=\"" + source + "\""});
  EXPECT_EQ(Experiment(files, options).plan()["arms"][0]["starts_from"], source);
  Experiment(files, options).run();
  EXPECT_EQ(model_of(folder / "files/late/seed-0"), model_of(out / "base/seed-1"));
}

// With weights that stay, the loss of a step is a function of the data alone.
TEST(Experiment, AnArmThatContinuesGoesOnWhereItsStartEnded) {
  const TemporaryFolder folder;
  const std::string text =
      "task = \"tiny\"\nseeds = [3]\n[train]\nimages = 40\nbatch = 4\nthreads = 1\nlog_every = 1\n"
      "[optimizer]\nlearning_rate = 0\n[table_optimizer]\nlearning_rate = 0\n[[arms]]\nname = \"whole\"\n"
      "[[arms]]\nname = \"half\"\nset = {\"train.images\" = 16}\n"
      "[[arms]]\nname = \"rest\"\nset = {start = {arm = \"half\", continues = true}}\n";
  const Recipe read = read_recipe(Config::from_text(text, "recipe.toml"), {}, tiny_tasks());
  ExperimentOptions options = options_for(folder / "out");
  const nlohmann::json plan = Experiment(read, options).plan();
  EXPECT_EQ(plan["arms"][2]["units_before"], 16);
  EXPECT_EQ(plan["arms"][2]["steps"], 6);
  EXPECT_NE(Experiment::plan_text(plan).find("starts from half and goes on behind its 16 images"), std::string::npos);
  options.arms = {"whole", "half"};
  Experiment(read, options).run();
  options.arms = {"rest"};
  const Summary summary = Experiment(read, options).run();
  EXPECT_EQ(summary.runs[2].units, 24);
  EXPECT_EQ(summary.runs[2].units_before, 16);
  const auto losses = [&](const std::string& arm) {
    std::ifstream log(folder / "out" / arm / "seed-3/metrics.jsonl");
    std::vector<double> values;
    for (std::string line; std::getline(log, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json["kind"] == "train") values.push_back(json["loss"]);
    }
    return values;
  };
  const std::vector<double> whole = losses("whole"), half = losses("half"), rest = losses("rest");
  ASSERT_EQ(whole.size(), 10u);
  EXPECT_EQ(half, std::vector<double>(whole.begin(), whole.begin() + 4));
  EXPECT_EQ(rest, std::vector<double>(whole.begin() + 4, whole.end()));
  fs::remove_all(folder / "out/half");
  fs::remove_all(folder / "out/rest");
  expect_error(ExitCode::usage,
               "train: arm rest needs a finished run of half with seed 3, got none in " + (folder / "out").string() +
                   " (--arm half --seed 3 trains it)",
               [&] { Experiment(read, options).run(); });
  fs::create_directories(folder / "out/half/seed-3");
  expect_error(ExitCode::usage, "(--arm half --seed 3 trains it, with --resume)",
               [&] { Experiment(read, options).run(); });
}

TEST(Experiment, WeightsThatNameTheRunAreThoseOfItsSeed) {
  const TemporaryFolder folder;
  ExperimentOptions options = options_for(folder / "first");
  options.arms = {"base"};
  Experiment(recipe(), options).run();
  options.out = folder / "second";
  const std::string pattern = (folder / "first/{arm}/seed-{seed}").string();
  const std::vector<std::string> settings = {"base:start.weights=\"" + pattern + "\"", "optimizer.learning_rate=0",
                                             "table_optimizer.learning_rate=0"};
  const Summary summary = Experiment(recipe(settings), options).run();
  EXPECT_EQ(model_of(folder / "second/base/seed-1"), model_of(folder / "first/base/seed-1"));
  EXPECT_NE(model_of(folder / "second/base/seed-1"), model_of(folder / "first/base/seed-0"));
  EXPECT_EQ(summary.runs[0].starts_from, pattern);
  fs::remove_all(folder / "first/base/seed-1");
  options.out = folder / "third";
  expect_error(ExitCode::input, "first/base/seed-1: start.weights must be a safetensors file",
               [&] { Experiment(recipe(settings), options).run(); });
}

TEST(Experiment, ARunThatGoesOnDoesNotStartAgain) {
  const TemporaryFolder folder;
  const fs::path out = folder / "out";
  ExperimentOptions options = options_for(out);
  options.arms = {"base"};
  options.seeds = {0};
  const std::vector<std::string> settings = {"late:train.checkpoint_every=2", "late:optimizer.learning_rate=0.01",
                                             "late:table_optimizer.learning_rate=0.01"};
  Experiment(recipe_with_late(), options).run();
  options.arms = {"late"};
  Experiment(recipe_with_late(settings), options).run();
  const std::string whole = model_of(out / "late/seed-0");
  fs::remove_all(out / "late");
  TinyPlan::hooks.before_step = [](int64_t step) {
    if (step == 3) raise(SIGINT);
  };
  EXPECT_THROW(Experiment(recipe_with_late(settings), options).run(), Interrupted);
  TinyPlan::hooks = {};
  fs::remove_all(out / "base");
  options.resume = true;
  Experiment(recipe_with_late(settings), options).run();
  EXPECT_EQ(model_of(out / "late/seed-0"), whole);
}

TEST(Experiment, WeightsThatAreNotThereAreToldBeforeTraining) {
  const TemporaryFolder folder;
  ExperimentOptions options = options_for(folder / "out");
  const auto refused = [&](ExitCode code, const std::string& message, const Recipe& text) {
    expect_error(code, message, [&] { Experiment(text, options).run(); });
    EXPECT_FALSE(fs::exists(folder / "out"));
  };
  const std::string none = (folder / "none").string();
  refused(ExitCode::input, "none: start.weights must be a safetensors file",
          recipe_with_late({}, fmt::format("weights = \"{}\"", none)));
  options.arms = {"late"};
  refused(ExitCode::usage, "arm late needs a finished run of base with seed 0, got none in", recipe_with_late());
}

TEST(Experiment, WhatCannotFitIsRefusedBeforeAnythingIsWritten) {
  const TemporaryFolder folder;
  const Recipe huge = read_recipe(Config::from_text(kText, "r"), {"model.rows=600000000000"}, tiny_tasks());
  expect_error(ExitCode::resources, "table", [&] { Experiment(huge, options_for(folder / "out")).run(); });
  EXPECT_FALSE(fs::exists(folder / "out"));
}

}  // namespace
}  // namespace loci
