#include "cli/compiled_program.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/paths.h"
#include "loci/base/stop_signal.h"
#include "loci/program/export_cpp.h"

namespace loci::cli {
namespace {

constexpr const char* kCompilingStopped = "stopped while the program was compiled";

using RunFunction = int (*)(uint32_t* mem, uint32_t M, uint32_t max_steps);

// A folder that is removed with all that is in it.
class CompilerFolder {
 public:
  CompilerFolder() {
    std::string name = (temporary_folder() / "loci-program-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) fail_path(name, "a temporary folder must be creatable", errno);
    path_ = name;
  }
  CompilerFolder(const CompilerFolder&) = delete;
  CompilerFolder& operator=(const CompilerFolder&) = delete;
  ~CompilerFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::shared_ptr<void> compiled_library(const RamProgram& program) {
  const StopSignal signals("stopping");  // the folder must not stay
  const CompilerFolder folder;
  const std::filesystem::path source = folder.path() / "program.cpp", library = folder.path() / "program.so";
  const char* entry = "int loci_run(uint32_t* mem, uint32_t M, uint32_t max_steps)";
  write_file_durably(source, fmt::format("{}extern \"C\" {};\n{} {{ return run(mem, M, max_steps); }}\n",
                                         to_cpp(program), entry, entry));
  const char* chosen = std::getenv("CXX");
  const std::string compiler = chosen != nullptr && *chosen != 0 ? chosen : "c++";
  const std::string command = fmt::format("{} -std=c++17 -O1 -Wall -Wextra -Werror -shared -fPIC -o '{}' '{}' >&2",
                                          compiler, library.string(), source.string());
  const int status = std::system(command.c_str());
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status) - 128;
  if (signal == SIGINT || signal == SIGTERM) throw Interrupted(signal, kCompilingStopped);  // of the compiler alone
  StopSignal::check(kCompilingStopped);
  if (status != 0) {
    fail(ExitCode::usage, "--compiled", "the compiler (CXX, or c++) must be there and take the exported program",
         fmt::format("{} with status {}", compiler, WIFEXITED(status) ? WEXITSTATUS(status) : status));
  }
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) fail(ExitCode::input, library.string(), "must be loadable", dlerror());
  return {handle, dlclose};
}

}  // namespace

RamRunner compiled_runner(const RamProgram& program) {
  const std::shared_ptr<void> library = compiled_library(program);
  const auto run = reinterpret_cast<RunFunction>(dlsym(library.get(), "loci_run"));
  if (run == nullptr) fail(ExitCode::input, "--compiled", "the library must have loci_run", dlerror());
  return [library, run](std::span<uint32_t> tape, uint32_t most) {
    const int steps = run(tape.data(), static_cast<uint32_t>(tape.size()), most);
    RamRunResult result{.steps = steps < 0 ? 0 : static_cast<uint32_t>(steps), .reason = StopReason::stopped};
    if (steps < 0) result.reason = StopReason::unseen;
    if (result.steps == most) result.reason = StopReason::forced;  // or stopped in the last step: it does not say
    return result;
  };
}

}  // namespace loci::cli
