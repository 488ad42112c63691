// loci train: every arm and seed of a recipe, then the comparison.
#include <fmt/ranges.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/output.h"
#include "cli/ranks.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/tasks/all.h"
#include "loci/train/comparison.h"
#include "loci/train/experiment.h"

namespace loci::cli {
namespace {

struct TrainArguments {
  std::string recipe;
  ExperimentOptions options;
  std::vector<std::string> settings;
  bool dry_run = false;
  bool keys = false;
  std::string keys_of;  // a task; empty: all
  bool json = false;
  int64_t peer_timeout = kPeerSeconds;
};

constexpr const char* kTrainExamples =
    "Examples:\n"
    "  loci train recipes/language-model-demo/small.toml --data DIR --out out\n"
    "  loci train recipes/ram-access/small.toml --out out/access\n"
    "  loci train RECIPE --data DIR --out out --arm memory --seed 0 --set train.tokens=100_000\n"
    "  loci train RECIPE --data DIR --out out --resume      go on after an interruption\n"
    "  loci train RECIPE --dry-run                          what would be trained, and does it fit\n"
    "  torchrun --nproc-per-node 2 --no-python loci train RECIPE --data DIR --out out     tables in parts "
    "(docs/distributed.md)\n"
    "  loci train --keys language_model                     every key of a recipe: default, range, meaning\n"
    "\n"
    "--set takes any key of the recipe: --set model.layers=4 --set data.extensions='[\".py\"]'. It wins over the\n"
    "arms; --set ARM:KEY=VALUE changes one arm. docs/recipe-keys.md lists the keys, as --keys does.";

std::string keys_text_of(const std::string& task) {
  std::string text;
  std::vector<std::string> names;
  for (const TaskKind& kind : all_tasks()) {
    names.push_back(kind.name);
    if (task.empty() || task == kind.name) text += (text.empty() ? "" : "\n\n") + recipe_keys(kind);
  }
  if (text.empty()) {
    fail(ExitCode::usage, "--keys", fmt::format("the task must be one of {}", fmt::join(names, ", ")), task);
  }
  return text;
}

void train(const TrainArguments& arguments) {
  if (arguments.keys) return print(keys_text_of(arguments.keys_of));
  if (arguments.recipe.empty()) throw Error(ExitCode::usage, "train: RECIPE is required (loci train --help)");
  Recipe recipe =
      read_recipe(Config::from_file(arguments.recipe), arguments.settings, all_tasks(), arguments.options.arms);
  const JoinedRanks joined(arguments.peer_timeout);
  ExperimentOptions options = arguments.options;
  options.ranks = joined.ranks();
  Experiment experiment(std::move(recipe), options);
  const nlohmann::json plan = experiment.plan();
  if (arguments.dry_run) {
    if (!joined.leads()) return;
    if (arguments.json) return print_json(plan, 2);
    return print(Experiment::plan_text(plan));
  }
  const bool needs_data = experiment.recipe().arms.front().config.plan->needs_data();
  if ((needs_data && arguments.options.data.empty()) || arguments.options.out.empty()) {
    throw Error(ExitCode::usage, fmt::format("train: {}--out DIR {} required (or --dry-run)",
                                             needs_data ? "--data DIR and " : "", needs_data ? "are" : "is"));
  }
  if (!arguments.options.quiet && joined.leads()) note(Experiment::plan_text(plan));
  const Summary summary = experiment.run();
  if (!joined.leads()) return;
  if (arguments.json) {
    print_json(summary_json(summary), 2);
  } else {
    const auto file = arguments.options.out / "summary.json";
    print(comparison_text(summary) + fmt::format("\nWritten: {}\n", printable(file.string())));
  }
}

}  // namespace

void add_train(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand("train", "Train all arms and seeds of a recipe and compare them");
  auto arguments = std::make_shared<TrainArguments>();
  verb->add_option("recipe", arguments->recipe, "The recipe, a TOML file");
  verb->add_option("--data", arguments->options.data, "Folder with the data (for a language model: text files)");
  verb->add_option("--out", arguments->options.out, "Folder for the runs, OUT/ARM/seed-N, and OUT/summary.json");
  verb->add_option("--set", arguments->settings,
                   "Change a key of the recipe, KEY=VALUE or ARM:KEY=VALUE; may stand several times")
      ->allow_extra_args(false);
  verb->add_option("--arm", arguments->options.arms, "Only this arm; may stand several times")->allow_extra_args(false);
  verb->add_option("--seed", arguments->options.seeds, "Only this seed; may stand several times")
      ->allow_extra_args(false)
      ->check(whole_number(0));
  verb->add_flag("--resume", arguments->options.resume, "Go on with the runs in OUT: finished ones are kept");
  verb->add_option("--cache", arguments->options.cache, "Folder for tokenised data [~/.cache/loci]");
  auto* keys = verb->add_option("--keys", arguments->keys_of, "Only list the keys of a recipe, of one TASK or of all");
  keys->expected(0, 1);
  verb->add_option("--peer-timeout", arguments->peer_timeout,
                   "Under torchrun: seconds that a rank waits for the others before it gives up")
      ->check(whole_number(1))
      ->capture_default_str();
  verb->add_flag("--dry-run", arguments->dry_run, "Only show parameters, memory, threads and steps");
  verb->add_flag("--json", arguments->json, "Results as JSON on standard output");
  verb->add_flag("--quiet", arguments->options.quiet, "No progress");
  verb->footer(kTrainExamples);
  verb->callback([arguments, keys, &action] {
    arguments->keys = keys->count() > 0;
    action = [arguments] {
      if (arguments->options.cache.empty()) arguments->options.cache = default_cache();
      train(*arguments);
    };
  });
}

}  // namespace loci::cli
