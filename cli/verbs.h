// The verbs of the command line, a file each. A verb adds its options to the program and sets what is to be done when
// it was named; main() does it and turns errors into one line and an exit status.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>

namespace loci::cli {

using Action = std::function<void()>;

void add_train(CLI::App& program, Action& action);
void add_eval(CLI::App& program, Action& action);
void add_convert(CLI::App& program, Action& action);
void add_inspect(CLI::App& program, Action& action);
void add_doctor(CLI::App& program, Action& action);
void add_bench(CLI::App& program, Action& action);  // with LOCI_BENCH

// Verbs of tasks: which task has which stands in tasks/all.cpp.
void add_generate(CLI::App& program, Action& action);
void add_predict(CLI::App& program, Action& action);
void add_program(CLI::App& program, Action& action);
// Adds those that a task has. Throws Error (bug) for one that the command line does not know.
void add_task_verbs(CLI::App& program, Action& action);

}  // namespace loci::cli
