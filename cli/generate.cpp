// loci generate: text from a trained language model, streamed.
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/arguments.h"
#include "cli/output.h"
#include "cli/ranks.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/base/durable_file.h"
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
  std::string file;
  GenerateOptions options;
  bool json = false;
};

std::string prompt_of(const GenerateArguments& arguments) {
  if (arguments.file.empty()) return arguments.prompt;
  return read_text_file(arguments.file == "-" ? "/dev/stdin" : arguments.file);
}

void generate_text(const GenerateArguments& arguments) {
  const std::string prompt = prompt_of(arguments);
  const RunArgument run = find_run(arguments.run);
  require_verb(run, "generate");
  const JoinedRanks joined;  // all of them write the same text, each with its rows
  require_memory("generate", memory_of_parameters(run.config.size(joined.ranks()), joined.ranks()));
  use_threads(run.config.train.threads);
  const LoadedLanguageModel loaded = load_language_model(run.config, run.checkpoint, joined.ranks());
  std::vector<int64_t> tokens = {loaded.tokenizer.end_of_text()};  // a text begins where another ends
  for (const int32_t token : loaded.tokenizer.encode(prompt)) tokens.push_back(token);
  StreamDecoder decoder(loaded.tokenizer);
  std::string text;
  int64_t count = 0;
  bool ended = false;
  const bool shows = joined.leads() && !arguments.json;
  const auto show = [&](const std::string& part) {
    text += part;
    if (shows) print(part);
  };
  if (shows) print(prompt);
  generate(*loaded.model, tokens, arguments.options, [&](int64_t token) {
    ++count;
    ended = token == loaded.tokenizer.end_of_text();
    if (!ended) show(decoder.push(static_cast<int32_t>(token)));
    return !ended;
  });
  show(decoder.finish());
  if (!joined.leads()) return;
  if (arguments.json) {
    return print_json(
        {{"run", run.folder.string()}, {"prompt", prompt}, {"text", text}, {"tokens", count}, {"end_of_text", ended}});
  }
  print("\n");
  if (ended) note(fmt::format("The text ended after {} of {} tokens.\n", count, arguments.options.tokens));
}

}  // namespace

void add_generate(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand("generate", "Write text with a trained language model");
  auto arguments = std::make_shared<GenerateArguments>();
  auto& options = arguments->options;
  verb->add_option("run", arguments->run, "A run directory (OUT/ARM/seed-N) or one of its step-N folders")->required();
  auto* prompt = verb->add_option("--prompt", arguments->prompt, "The text to go on from");
  verb->add_option("--prompt-file", arguments->file, "Read the prompt from this file; -: from standard input")
      ->excludes(prompt);
  verb->add_option("--tokens", options.tokens, "How many tokens to write")
      ->check(whole_number(0, int64_t{1} << 30))
      ->capture_default_str();
  verb->add_option("--temperature", options.temperature, "0: always the likeliest token; 1: as the model says")
      ->check(real_number(0, 100))
      ->capture_default_str();
  verb->add_option("--top-k", options.top_k, "Draw from the K likeliest tokens; 0: from all")
      ->check(whole_number(0, int64_t{1} << 30))
      ->capture_default_str();
  verb->add_option("--seed", options.seed, "The same seed gives the same text")
      ->check(whole_number(0))
      ->capture_default_str();
  verb->add_flag("--json", arguments->json, "Print JSON: prompt, text, tokens, and whether the text ended");
  verb->footer(
      "Examples:\n  loci generate out/memory/seed-0 --prompt \"def forward(self\" --tokens 100\n"
      "  loci generate out/memory/seed-0 --prompt \"import\" --temperature 0.7 --top-k 20 --seed 3\n"
      "  loci generate out/memory/seed-0 --prompt-file part.txt --tokens 50 --json");
  verb->callback([arguments, &action] { action = [arguments] { generate_text(*arguments); }; });
}

}  // namespace loci::cli
