// loci eval: a checkpoint's measures on the validation part of a data folder, and what else its task has to say.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/measure.h"
#include "cli/output.h"
#include "cli/ranks.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/train/checkpoint.h"
#include "loci/train/precision.h"
#include "loci/train/trainer.h"

namespace loci::cli {
namespace {

struct EvalArguments {
  std::string run;
  std::string data;
  std::filesystem::path cache;
  std::vector<int64_t> lengths;
  bool by_context = false;
  std::filesystem::path questions;
  bool places = false;
  bool poses = false;
  int64_t pictures = 0;
  bool json = false;
  bool quiet = false;
};

std::string measures_text(const std::vector<Measure>& measures, const Evaluation& evaluation) {
  size_t width = 0;
  for (const Measure& measure : measures) width = std::max(width, measure.name.size());
  std::string text;
  for (size_t i = 0; i < measures.size(); ++i) {
    Measure exact = measures[i];
    if (exact.digits > 0) ++exact.digits;  // a digit more than in the comparison
    text += fmt::format("{:{}}  {}  ({})\n", title_of(exact), width, shown(exact, evaluation.values[i], true),
                        exact.meaning);
  }
  return text;
}

void eval(const EvalArguments& arguments) {
  const RunArgument run = find_run(arguments.run);
  const JoinedRanks joined;
  ProgressLine progress(arguments.quiet || !joined.leads());
  const Measured measured = measure(run, arguments.data, arguments.cache, progress, joined.ranks());
  AccountOptions options{.lengths = arguments.lengths,
                         .questions = arguments.questions,
                         .places = arguments.places,
                         .poses = arguments.poses,
                         .pictures = arguments.pictures,
                         .progress = &progress};
  if (arguments.by_context) {
    require_data(run.checkpoint, measured.task->data_key());
    options.by_context = run.checkpoint.step();
  }
  const Account account =
      account_of(*measured.task, measured.evaluation, options, wants_bfloat16(run.config.train.precision));
  progress.finish();
  if (!joined.leads()) return;
  const std::vector<Measure> measures = measured.task->measures();
  if (!arguments.json) return print(measures_text(measures, measured.evaluation) + account.text);
  nlohmann::json result = evaluation_json(measures, measured.evaluation);
  result.update({{"task", run.config.task},
                 {"checkpoint", run.checkpoint.path().string()},
                 {"damaged", run.damaged},
                 {"account", account.json}});
  print_json(result);
}

}  // namespace

void add_eval(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand("eval", "Measure a trained model on the validation part of a data folder");
  auto arguments = std::make_shared<EvalArguments>();
  verb->add_option("run", arguments->run, "A run directory (OUT/ARM/seed-N) or one of its step-N folders")->required();
  verb->add_option("--data", arguments->data, "Folder with the data, for a task that reads one");
  verb->add_option("--lengths", arguments->lengths, "Lengths to measure at, for a task whose instances have a length")
      ->delimiter(',')
      ->check(whole_number(0));
  verb->add_flag("--by-context", arguments->by_context,
                 "Language models: the loss by how often training has shown the two tokens before");
  verb->add_option("--questions", arguments->questions,
                   "Language models: a file of lines PROMPT<tab>ANSWER; how many answers are right");
  verb->add_flag("--places", arguments->places,
                 "Relocalisation with a memory: whether frames taken near each other read the same rows");
  verb->add_flag("--poses", arguments->poses,
                 "Relocalisation: --json also has the poses of the test frames, true and predicted");
  verb->add_option("--pictures", arguments->pictures,
                   "Pair shapes: --json also has so many test samples, answers, and where the non-local block looks")
      ->check(whole_number(0));
  verb->add_option("--cache", arguments->cache, "Folder for tokenised data [~/.cache/loci]");
  verb->add_flag("--json", arguments->json, "Print JSON");
  verb->add_flag("--quiet", arguments->quiet, "No progress");
  verb->footer(
      "Examples:\n  loci eval out/memory/seed-0 --data DIR\n"
      "  loci eval out/memory/seed-0/step-100 --data DIR --json\n"
      "  loci eval out/memory/seed-0 --data DIR --by-context --questions capitals.tsv\n"
      "  loci eval out/main/seed-0 --lengths 5,10,20,50 --json     of a ram run");
  verb->callback([arguments, &action] { action = [arguments] { eval(*arguments); }; });
}

}  // namespace loci::cli
