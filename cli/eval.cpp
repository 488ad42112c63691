// loci eval: a checkpoint's measures on the validation part of a data folder.
#include <nlohmann/json.hpp>

#include <memory>
#include <string>
#include <vector>

#include "cli/measure.h"
#include "cli/output.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/tasks/ram_evaluation.h"
#include "loci/tasks/ram_task.h"
#include "loci/train/experiment.h"

namespace loci::cli {
namespace {

struct EvalArguments {
  std::string run;
  std::string data;
  std::filesystem::path cache;
  std::vector<int64_t> lengths;
  bool json = false;
  bool quiet = false;
};

std::string text_of(const nlohmann::json& measures) {
  std::string text = fmt::format("loss           {:.4f} nats\nbits per byte  {:.4f}\ntokens         {}\n",
                                 measures["loss"].get<double>(), measures["bits_per_byte"].get<double>(),
                                 measures["tokens"].get<int64_t>());
  for (const nlohmann::json& memory : measures["memories"]) {
    text +=
        fmt::format("memory in layer {}: usage {:.1f} %, as first {:.1f} %, KL {:.3f}, Gini {:.3f}\n",
                    memory["layer"].get<int64_t>(), 100 * memory["usage"].get<double>(),
                    100 * memory["usage_at_1"].get<double>(), memory["kl"].get<double>(), memory["gini"].get<double>());
  }
  return text;
}

// Of a ram run, every seed at every length, as it was trained and discretised.
void eval_ram(const EvalArguments& arguments, const RunArgument& run) {
  const LoadedRam ram = load_ram(run.config, run.checkpoint);
  const std::vector<int64_t> lengths =
      arguments.lengths.empty() ? std::vector<int64_t>{5, 10, 20, 50} : arguments.lengths;
  for (const int64_t length : lengths) {
    if (length < ram.task.minimum_difficulty) {
      fail(ExitCode::usage, "--lengths",
           fmt::format("lengths of {} must be at least {}", ram.task.name, ram.task.minimum_difficulty),
           fmt::to_string(length));
    }
  }
  ProgressLine progress(arguments.quiet);
  nlohmann::json seeds = nlohmann::json::array();
  std::string text =
      "seed  length  soft cell error  soft instance error  discrete cell error  discrete instance error\n";
  for (size_t s = 0; s < ram.machine->seeds().size(); ++s) {
    progress.show(fmt::format("evaluating seed {} of {}", s + 1, ram.machine->seeds().size()));
    const auto index = static_cast<int64_t>(s);
    const auto soft = soft_errors(*ram.machine, index, ram.task, lengths, {});
    const auto discrete = discrete_errors(*ram.machine, index, ram.task, lengths, {.instances = 1000});
    seeds.push_back({{"seed", ram.machine->seeds()[s]}, {"soft", to_json(soft)}, {"discrete", to_json(discrete)}});
    for (size_t i = 0; i < soft.size(); ++i) {
      const auto share = [](const RamError& e) {
        return static_cast<double>(e.wrong_instances) / static_cast<double>(e.instances);
      };
      text +=
          fmt::format("{:4}  {:6}  {:15.4f}  {:19.4f}  {:19.4f}  {:23.4f}\n", ram.machine->seeds()[s], soft[i].length,
                      soft[i].cell_error(), share(soft[i]), discrete[i].cell_error(), share(discrete[i]));
    }
  }
  progress.finish();
  const nlohmann::json result = {
      {"task", ram.task.name}, {"best", ram.machine->seeds()[static_cast<size_t>(ram.best)]}, {"seeds", seeds}};
  print(arguments.json ? result.dump() + "\n" : text);
}

void eval(const EvalArguments& arguments) {
  const RunArgument run = find_run(arguments.run);
  if (run.config.task == "ram") {
    use_threads(run.config.train.threads);
    return eval_ram(arguments, run);
  }
  if (!arguments.lengths.empty()) fail(ExitCode::usage, "--lengths", "RUN must be of the task ram", run.config.task);
  if (arguments.data.empty()) throw Error(ExitCode::usage, "eval: --data DIR is required");
  ProgressLine progress(arguments.quiet);
  const nlohmann::json measures = measure(run, arguments.data, arguments.cache, progress);
  progress.finish();
  print(arguments.json ? measures.dump() + "\n" : text_of(measures));
}

}  // namespace

void add_eval(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand("eval", "Measure a trained model on the validation part of a data folder");
  auto arguments = std::make_shared<EvalArguments>();
  verb->add_option("run", arguments->run, "A run directory (OUT/ARM/seed-N) or one of its step-N folders")->required();
  verb->add_option("--data", arguments->data, "Folder with the data (not for a ram run)");
  verb->add_option("--lengths", arguments->lengths, "Of a ram run: lengths to measure at, 5,10,20,50")->delimiter(',');
  verb->add_option("--cache", arguments->cache, "Folder for tokenised data [~/.cache/loci]");
  verb->add_flag("--json", arguments->json, "Print JSON");
  verb->add_flag("--quiet", arguments->quiet, "No progress");
  verb->footer(
      "Examples:\n  loci eval out/memory/seed-0 --data DIR\n"
      "  loci eval out/memory/seed-0/step-100 --data DIR --json\n"
      "  loci eval out/main/seed-0 --lengths 5,10,20,50 --json     of a ram run");
  verb->callback([arguments, &action] { action = [arguments] { eval(*arguments); }; });
}

}  // namespace loci::cli
