// loci generate: text from a trained language model, streamed.
#include <memory>
#include <string>

#include "cli/output.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/data/text/tokenizer.h"
#include "loci/models/generate.h"
#include "loci/tasks/language_model.h"
#include "loci/train/experiment.h"
#include "loci/train/memory_check.h"

namespace loci::cli {
namespace {

struct GenerateArguments {
  std::string run;
  std::string prompt;
  GenerateOptions options;
};

void generate_text(const GenerateArguments& arguments) {
  const RunArgument run = find_run(arguments.run);
  require_verb(run, "generate");
  require_memory("generate", memory_of_parameters(run.config.size()));
  use_threads(run.config.train.threads);
  const LoadedLanguageModel loaded = load_language_model(run.config, run.checkpoint);
  std::vector<int64_t> prompt = {loaded.tokenizer.end_of_text()};  // a text begins where another ends
  for (const int32_t token : loaded.tokenizer.encode(arguments.prompt)) prompt.push_back(token);
  StreamDecoder decoder(loaded.tokenizer);
  print(arguments.prompt);
  generate(*loaded.model, prompt, arguments.options, [&](int64_t token) {
    print(decoder.push(static_cast<int32_t>(token)));
    return token != loaded.tokenizer.end_of_text();
  });
  print(decoder.finish() + "\n");
}

}  // namespace

void add_generate(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand("generate", "Write text with a trained language model");
  auto arguments = std::make_shared<GenerateArguments>();
  auto& options = arguments->options;
  verb->add_option("run", arguments->run, "A run directory (OUT/ARM/seed-N) or one of its step-N folders")->required();
  verb->add_option("--prompt", arguments->prompt, "The text to go on from");
  verb->add_option("--tokens", options.tokens, "How many tokens to write")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  verb->add_option("--temperature", options.temperature, "0: always the likeliest token; 1: as the model says")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  verb->add_option("--top-k", options.top_k, "Draw from the K likeliest tokens; 0: from all")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  verb->add_option("--seed", options.seed, "The same seed gives the same text")->capture_default_str();
  verb->footer(
      "Examples:\n  loci generate out/memory/seed-0 --prompt \"def forward(self\" --tokens 100\n"
      "  loci generate out/memory/seed-0 --prompt \"import\" --temperature 0.7 --top-k 20 --seed 3");
  verb->callback([arguments, &action] { action = [arguments] { generate_text(*arguments); }; });
}

}  // namespace loci::cli
