// loci: one program, a verb for each thing to do. docs/command-line.md.
#include <c10/util/Exception.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <torch/version.h>
#include <unistd.h>

#include <exception>
#include <filesystem>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "cli/arguments.h"
#include "cli/output.h"
#include "cli/ranks.h"
#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/base/cpu_level.h"
#include "loci/base/paths.h"
#include "loci/base/stop_signal.h"
#include "loci/train/version.h"

namespace loci::cli {
namespace {

// A closed descriptor would be given to the next file opened, and output would land in a checkpoint.
void open_standard_descriptors() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
    [[maybe_unused]] const int opened = open("/dev/null", O_RDWR);
  }
}

// A training step frees and asks again for the same large blocks. Handing them back to the system in between made page
// faults 17 % of the demo's time (perf, 2 layers of 128); kept blocks bring it to 3 %.
void keep_large_blocks() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TOP_PAD, 64 << 20);
}

// A mapped file that loses bytes while it is read, or whose disk fails, raises a signal.
void lost_file(int) {
  constexpr std::string_view message =
      "loci: a mapped file: its bytes must stay readable, got a bus error (was the file cut short, or is its disk "
      "failing?)\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, message.data(), message.size());
  _exit(static_cast<int>(ExitCode::input));
}

std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

int complain(ExitCode code, std::string_view message) {
  note(fmt::format("{}: {}\n", program_name(), printable(message)));
  return static_cast<int>(code);
}

int complain_of_memory(std::string_view got = "none") {
  return complain(ExitCode::resources, fmt::format("memory: there must be enough, got {}", got));
}

// The framework throws one type for everything; only "no memory" is told apart, the rest is a fault of ours.
int complain(const c10::Error& error) {
  const std::string message = first_line(error.what_without_backtrace());
  const size_t allocator = message.find("DefaultCPUAllocator: ");  // behind a line of its source
  if (allocator != std::string::npos) return complain_of_memory(std::string_view(message).substr(allocator));
  const bool memory = dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
                      (message.find("allocate") != std::string::npos && message.find("memory") != std::string::npos);
  return memory ? complain_of_memory(message) : complain(ExitCode::bug, message);
}

void run(int argc, char** argv) {
  CLI::App program("Large memory layers for neural networks: train, measure and use models with product-key memories.");
  program.name("loci");
  program.require_subcommand(1);
  program.set_version_flag("--version",
                           fmt::format("loci {} (torch {}, {})", version(), TORCH_VERSION, name_of(best_cpu_level())));
  program.footer(
      "Start with:  loci doctor    loci train --help\n"
      "Exit status: 0 ok, 1 a bug of loci, 2 usage or configuration, 3 bad input file, 4 not enough memory or\n"
      "disk, 5 numbers went bad, 6 another process was lost, 130 and 143 signals.");
  Action action;
  add_train(program, action);
  add_eval(program, action);
  add_task_verbs(program, action);
  add_convert(program, action);
  add_inspect(program, action);
  add_doctor(program, action);
#ifdef LOCI_BENCH
  add_bench(program, action);
#endif
  try {
    parse_arguments(program, argc, argv);
  } catch (const CLI::CallForHelp&) {
    const auto chosen = program.get_subcommands();
    print(chosen.empty() ? program.help() : chosen.front()->help(program.get_name()));
    return;
  } catch (const CLI::CallForVersion&) {
    print(program.version() + "\n");
    return;
  }
  if (!program.got_subcommand("doctor")) cpu_level();  // a bad LOCI_CPU_LEVEL is told at once
  const std::string verb = program.get_subcommands().front()->get_name();
  if (one_of_several_ranks() && verb != "train" && verb != "eval" && verb != "generate" && verb != "bench") {
    fail(ExitCode::usage, "torchrun",
         "the verb must be train, eval, generate or bench network on several ranks (WORLD_SIZE)", verb);
  }
  action();
}

// The line and the status of the exception that is being handled.
int report_exception() {
  try {
    throw;
  } catch (const OutputClosed&) {
    return 0;
  } catch (const Interrupted& stop) {
    note(fmt::format("{}: {}\n", program_name(), printable(stop.what())));
    return 128 + stop.signal();
  } catch (const Error& error) {
    return complain(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return complain_of_memory();
  } catch (const std::length_error&) {  // a container larger than any memory
    return complain_of_memory();
  } catch (const c10::Error& error) {
    return complain(error);
  } catch (const std::filesystem::filesystem_error& error) {
    return complain(exit_code_of(error.code().value(), ExitCode::input), error.what());
  } catch (const nlohmann::json::exception& error) {
    return complain(
        ExitCode::input,
        fmt::format("a file of the run: its JSON must have the form that loci writes, got {}", error.what()));
  } catch (const std::system_error& error) {  // no thread could be made, for instance
    const bool lacks = error.code() == std::errc::resource_unavailable_try_again;
    return complain(lacks ? ExitCode::resources : exit_code_of(error.code().value(), ExitCode::bug), error.what());
  } catch (const std::exception& error) {
    return complain(ExitCode::bug, fmt::format("unexpected: {}", error.what()));
  }
}

int guarded(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (...) {
    return report_exception();
  }
}

// An exception that left a thread or a destructor: still one line and a status, not an abort.
[[noreturn]] void terminated() {
  int status = static_cast<int>(ExitCode::bug);
  if (std::current_exception()) {
    try {
      throw;
    } catch (...) {
      status = report_exception();
    }
  } else {
    complain(ExitCode::bug, "unexpected: terminated without an exception");
  }
  _exit(status);
}

}  // namespace
}  // namespace loci::cli

int main(int argc, char** argv) {
  loci::cli::open_standard_descriptors();
  loci::cli::keep_large_blocks();
  std::set_terminate(loci::cli::terminated);
  signal(SIGBUS, loci::cli::lost_file);
  signal(SIGXFSZ, SIG_IGN);  // a limit of file sizes is an error of write(), like a full disk
  signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of write(), see print()
  return loci::cli::guarded(argc, argv);
}
