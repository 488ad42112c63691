// loci eval: a checkpoint's measures on the validation part of a data folder.
#include <nlohmann/json.hpp>

#include <memory>
#include <string>

#include "cli/output.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/tasks/all.h"
#include "loci/train/checkpoint.h"
#include "loci/train/experiment.h"
#include "loci/train/memory_check.h"
#include "loci/train/precision.h"
#include "loci/train/trainer.h"

namespace loci::cli {
namespace {

struct EvalArguments {
  std::string run;
  std::string data;
  std::filesystem::path cache;
  bool json = false;
  bool quiet = false;
};

// Of what evaluation measures, the part that `loci eval` promises.
nlohmann::json chosen(const nlohmann::json& measures) {
  nlohmann::json result;
  for (const char* key : {"loss", "bits_per_byte", "tokens"}) result[key] = measures.value(key, nlohmann::json());
  result["memories"] = nlohmann::json::array();
  for (const nlohmann::json& memory : measures.value("memories", nlohmann::json::array())) {
    nlohmann::json part;
    for (const char* key : {"layer", "usage", "usage_at_1", "kl", "gini"}) {
      part[key] = memory.value(key, nlohmann::json());
    }
    result["memories"].push_back(part);
  }
  return result;
}

std::string text_of(const nlohmann::json& measures) {
  std::string text = fmt::format("loss           {:.4f} nats\nbits per byte  {:.4f}\ntokens         {}\n",
                                 measures["loss"].get<double>(), measures["bits_per_byte"].get<double>(),
                                 measures["tokens"].get<int64_t>());
  for (const nlohmann::json& memory : measures["memories"]) {
    text += fmt::format("memory in layer {}: usage {:.1f} %, as first {:.1f} %, KL {:.3f}, Gini {:.3f}\n",
                        memory["layer"].get<int64_t>(), 100 * memory["usage"].get<double>(),
                        100 * memory["usage_at_1"].get<double>(), memory["kl"].get<double>(),
                        memory["gini"].get<double>());
  }
  return text;
}

void eval(const EvalArguments& arguments) {
  const RunArgument run = find_run(arguments.run);
  require_memory("eval", memory_of_parameters(run.config.size()));
  use_threads(run.config.train.threads);
  ProgressLine progress(arguments.quiet);
  TaskInputs inputs;
  inputs.data = arguments.data;
  inputs.cache = arguments.cache.empty() ? default_cache() : arguments.cache;
  inputs.checkpoint = run.checkpoint.path();
  inputs.seed = static_cast<uint64_t>(run.config.seed);
  inputs.batch = run.config.batch();
  inputs.rows = run.config.table_optimizer;
  inputs.progress = &progress;
  const auto task = run.config.plan->make(inputs);
  load_model(run.checkpoint, *task);
  progress.show("evaluating");
  const nlohmann::json measures = chosen(evaluate(*task, wants_bfloat16(run.config.train.precision)));
  progress.finish();
  print(arguments.json ? measures.dump() + "\n" : text_of(measures));
}

}  // namespace

void add_eval(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand("eval", "Measure a trained model on the validation part of a data folder");
  auto arguments = std::make_shared<EvalArguments>();
  verb->add_option("run", arguments->run, "A run directory (OUT/ARM/seed-N) or one of its step-N folders")->required();
  verb->add_option("--data", arguments->data, "Folder with the data")->required();
  verb->add_option("--cache", arguments->cache, "Folder for tokenised data [~/.cache/loci]");
  verb->add_flag("--json", arguments->json, "Print JSON");
  verb->add_flag("--quiet", arguments->quiet, "No progress");
  verb->footer(
      "Examples:\n  loci eval out/memory/seed-0 --data DIR\n"
      "  loci eval out/memory/seed-0/step-100 --data DIR --json");
  verb->callback([arguments, &action] { action = [arguments] { eval(*arguments); }; });
}

}  // namespace loci::cli
