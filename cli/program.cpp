// loci program: the discrete program of a trained machine: print it, export it, run it, verify it.
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/compiled_program.h"
#include "cli/output.h"
#include "cli/run_argument.h"
#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/stop_signal.h"
#include "loci/program/export_cpp.h"
#include "loci/program/export_dot.h"
#include "loci/program/export_text.h"
#include "loci/program/program_file.h"
#include "loci/program/prune.h"
#include "loci/program/verify.h"
#include "loci/tasks/discretise.h"
#include "loci/tasks/ram_task.h"

namespace loci::cli {
namespace {

struct ProgramArguments {
  std::string run;
  std::optional<int64_t> seed;
  std::string format = "text";
  std::string out;
  std::optional<std::string> tape;
  int64_t steps = 0;
  bool trace = false;
  int64_t verify = 0;
  bool compiled = false;
  bool unpruned = false;
  bool json = false;
};

struct Chosen {
  LoadedRam ram;
  int64_t index = 0;
};

Chosen choose(const ProgramArguments& arguments) {
  const RunArgument run = find_run(arguments.run);
  require_verb(run, "program");
  Chosen chosen{load_ram(run.config, run.checkpoint), 0};
  const std::vector<uint64_t>& seeds = chosen.ram.machine->seeds();
  chosen.index = chosen.ram.best;
  if (arguments.seed) {
    const auto at = std::find(seeds.begin(), seeds.end(), static_cast<uint64_t>(*arguments.seed));
    if (at == seeds.end()) {
      fail(ExitCode::usage, "program", fmt::format("--seed must be {} .. {}", seeds.front(), seeds.back()),
           fmt::to_string(*arguments.seed));
    }
    chosen.index = at - seeds.begin();
  }
  if (chosen.index < 0 || chosen.index >= std::ssize(seeds)) {
    fail(ExitCode::input, run.checkpoint.path().string(), "the best seed must be one of the run",
         fmt::to_string(chosen.index));
  }
  return chosen;
}

Tape parse_tape(const std::string& text) {
  const auto refuse = [&text] {
    fail(ExitCode::usage, "--run", "the tape must be numbers below 2^32 with commas between them, such as 3,7,1,9,0",
         text.empty() ? "nothing" : text);
  };
  Tape tape;
  if (text.empty()) refuse();
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    while (at < end && *at == ' ') ++at;
    uint32_t value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc()) refuse();
    tape.push_back(value);
    at = next;
    while (at < end && *at == ' ') ++at;
    if (at == end) break;
    if (*at != ',') refuse();
    ++at;
  }
  return tape;
}

// What the oracle says, or why it says nothing: a tape that is no instance may still be run.
void print_verdict(const RamTask& task, const Tape& before, const Tape& after) {
  try {
    const int64_t wrong = wrong_cells(task.solve(before), after);
    print(wrong == 0 ? fmt::format("right: an instance of {}, solved\n", task.name)
                     : fmt::format("wrong: {} output cells of {} differ\n", wrong, task.name));
  } catch (const Error& error) {
    print(fmt::format("no instance of {}: {}\n", task.name, error.what()));
  }
}

void run_tape(const ProgramArguments& arguments, const Chosen& chosen, const RamProgram& program) {
  Tape tape = parse_tape(*arguments.tape);
  const Tape before = tape;
  Trace trace;
  const auto most =
      static_cast<uint32_t>(arguments.steps > 0 ? arguments.steps : chosen.ram.task.training_steps(std::ssize(tape)));
  const RamRunResult result = program.run(tape, most, arguments.trace ? &trace : nullptr);
  if (arguments.trace) print(to_text(program.shape(), trace));
  print(fmt::format("{}\n{} after {} steps\n", fmt::join(tape, ","), name_of(result.reason), result.steps));
  print_verdict(chosen.ram.task, before, tape);
}

void verify_program(const ProgramArguments& arguments, const Chosen& chosen) {
  InstanceOptions options;
  options.instances =
      std::max<int64_t>(1, (arguments.verify + std::ssize(options.lengths) - 1) / std::ssize(options.lengths));
  RamRunner runner = discrete_runner(*chosen.ram.machine, chosen.index);
  if (arguments.compiled) {
    const RamProgram whole = discretise(*chosen.ram.machine, chosen.index);
    runner =
        compiled_runner(arguments.unpruned ? simplify(whole) : prune(whole, count_patterns(whole, chosen.ram.task)));
  }
  const VerifyReport report = verify(runner, chosen.ram.task, options);
  if (arguments.json) return print_json(to_json(report), 2);
  print("length  instances  wrong  cell error  forced stops\n");
  for (const LengthReport& row : report.lengths) {
    print(fmt::format("{:6}  {:9}  {:5}  {:10.4f}  {:12}\n", row.length, row.instances, row.wrong_instances,
                      row.cells == 0 ? 0.0 : static_cast<double>(row.wrong_cells) / static_cast<double>(row.cells),
                      row.forced));
  }
  const LengthReport total = report.total();
  print(fmt::format("{}: {} of {} instances of {} right\n", report.exact() ? "exact" : "not exact",
                    total.instances - total.wrong_instances, total.instances, chosen.ram.task.name));
  if (report.counter_example) {
    print(fmt::format("first counter-example: {} became {}\n", fmt::join(report.counter_example->tape, ","),
                      fmt::join(report.counter_example->result, ",")));
  }
}

std::string exported(const ProgramArguments& arguments, const RamProgram& program, const PatternCounts& counts) {
  if (arguments.format == "c++") return to_cpp(program);
  if (arguments.format == "dot") return to_dot(program, counts);
  if (arguments.format == "json") return to_json(program);
  return to_text(program);
}

void export_program(const ProgramArguments& arguments) {
  const StopSignal signals("stopping");  // a temporary file of --out must not stay
  const auto between = [] { StopSignal::check("stopped before the program was written"); };
  std::optional<DurableFile> file;  // opened first: a path that cannot be written is told before the work
  if (!arguments.out.empty()) file.emplace(arguments.out, ExitCode::usage);
  const Chosen chosen = choose(arguments);
  const RamProgram whole = discretise(*chosen.ram.machine, chosen.index, between);
  const PatternCounts counts = count_patterns(whole, chosen.ram.task);
  const std::string text = exported(arguments, arguments.unpruned ? simplify(whole) : prune(whole, counts), counts);
  between();
  if (!file) return print(text);
  file->write(text);
  file->commit();
  note(fmt::format("Written: {} (seed {})\n", printable(arguments.out),
                   chosen.ram.machine->seeds()[static_cast<size_t>(chosen.index)]));
}

void show_program(const ProgramArguments& arguments) {
  if (!arguments.tape && arguments.verify == 0) return export_program(arguments);
  const Chosen chosen = choose(arguments);
  if (arguments.verify > 0) return verify_program(arguments, chosen);
  run_tape(arguments, chosen, simplify(discretise(*chosen.ram.machine, chosen.index)));
}

}  // namespace

void add_program(CLI::App& app, Action& action) {
  auto* verb =
      app.add_subcommand("program", "The program that a neural random-access machine has learned: print, run, verify");
  auto arguments = std::make_shared<ProgramArguments>();
  verb->add_option("run", arguments->run, "A run directory (OUT/ARM/seed-N) or one of its step-N folders")->required();
  verb->add_option("--seed", arguments->seed, "Of the run's seeds; without it the best")->check(whole_number(0));
  verb->add_option("--format", arguments->format, "text, c++, dot (Graphviz) or json")
      ->check(CLI::IsMember({"text", "c++", "dot", "json"}))
      ->capture_default_str();
  auto* out = verb->add_option("--out", arguments->out, "Write the program to this file");
  verb->add_flag("--unpruned", arguments->unpruned, "Keep the circuits of patterns that no instance of the task met");
  auto* tape = verb->add_option("--run", arguments->tape, "Run on this tape, \"3,7,1,9,0\"")->excludes(out);
  verb->add_option("--steps", arguments->steps, "At most so many steps of --run [what training allows]")
      ->check(whole_number(1, UINT32_MAX))
      ->needs(tape);
  verb->add_flag("--trace", arguments->trace, "Show registers, operands and tape, step by step")->needs(tape);
  auto* verify =
      verb->add_option("--verify", arguments->verify, "Check about so many random instances of lengths 1 to 50")
          ->check(whole_number(1, int64_t{1} << 40))
          ->excludes(tape)
          ->excludes(out);
  verb->add_flag("--json", arguments->json, "--verify: print JSON")->needs(verify);
  verb->add_flag("--compiled", arguments->compiled, "--verify: run the exported C++, compiled by $CXX or c++")
      ->needs(verify);
  verb->footer(
      "Examples:\n  loci program out/main/seed-0\n  loci program out/main/seed-0 --format c++ --out access.cpp\n"
      "  loci program out/main/seed-0 --run 2,5,3,4,0,0 --trace\n  loci program out/main/seed-0 --verify 10000");
  verb->callback([arguments, &action] { action = [arguments] { show_program(*arguments); }; });
}

}  // namespace loci::cli
