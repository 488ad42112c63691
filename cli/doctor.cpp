// loci doctor: what this machine and build are, and what is wrong with them.
#include <ATen/Parallel.h>
#include <fmt/ranges.h>
#include <sched.h>
#include <torch/version.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "cli/output.h"
#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/base/cpu_level.h"
#include "loci/base/progress.h"
#include "loci/train/version.h"

namespace loci::cli {
namespace {

std::string line_after(const std::filesystem::path& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const size_t begin = line.find_first_not_of(" \t:", key.size());
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

// The word in brackets of "always [madvise] never".
std::string chosen_word(const std::string& line) {
  const size_t begin = line.find('[');
  const size_t end = line.find(']');
  return begin == std::string::npos || end == std::string::npos ? "unknown" : line.substr(begin + 1, end - begin - 1);
}

// Files mapped into this process whose name begins with one of `names`.
std::vector<std::string> mapped_libraries(const std::vector<std::string>& names) {
  std::set<std::string> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const size_t path = line.find('/');
    if (path == std::string::npos) continue;
    const std::string file = line.substr(line.rfind('/') + 1);
    const auto named = [&file](const std::string& name) { return file.starts_with(name); };
    if (std::any_of(names.begin(), names.end(), named)) found.insert(line.substr(path));
  }
  return {found.begin(), found.end()};
}

int cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

nlohmann::json doctor_facts() {
  nlohmann::json facts;
  std::vector<std::string> wrong;
  facts["loci"] = version();
  facts["torch"] = TORCH_VERSION;
  facts["torch_library"] = mapped_libraries({"libtorch_cpu"});
  facts["compiler"] = __VERSION__;
  facts["cpu"] = line_after("/proc/cpuinfo", "model name");
  facts["best_level"] = name_of(best_cpu_level());
  try {
    facts["level"] = name_of(cpu_level());
    if (cpu_level() != best_cpu_level()) {
      wrong.push_back(fmt::format("LOCI_CPU_LEVEL holds the kernels at {}; this CPU can do {}", name_of(cpu_level()),
                                  name_of(best_cpu_level())));
    }
  } catch (const Error& error) {
    facts["level"] = nullptr;
    wrong.emplace_back(error.what());
  }
  facts["bfloat16"] = cpu_has_bfloat16();
  facts["cores"] = cores();
  facts["threads"] = at::get_num_threads();
  facts["OMP_NUM_THREADS"] = variable("OMP_NUM_THREADS");
  facts["openmp"] = mapped_libraries({"libgomp", "libiomp", "libomp"});
  facts["huge_pages"] = chosen_word(line_after("/sys/kernel/mm/transparent_hugepage/enabled", ""));
  facts["memory_available"] = available_bytes();
  std::error_code error;
  const auto space = std::filesystem::space(".", error);
  facts["disk_available"] = error ? 0 : static_cast<int64_t>(space.available);

  if (facts["threads"] < facts["cores"]) {
    wrong.push_back(fmt::format("{} of {} cores are used: OMP_NUM_THREADS is \"{}\"", facts["threads"].get<int>(),
                                cores(), variable("OMP_NUM_THREADS")));
  }
  if (facts["threads"] > facts["cores"]) wrong.emplace_back("more threads than cores: training will be slow");
  if (facts["openmp"].size() > 1) wrong.emplace_back("several OpenMP runtimes in one process fight for the cores");
  if (facts["huge_pages"] == "never") {
    wrong.emplace_back("transparent huge pages are off: large tables are read slower");
  }
  if (facts["memory_available"] < int64_t{1} << 30) wrong.emplace_back("less than 1 GiB of memory is free");
  if (facts["disk_available"] < int64_t{1} << 30) wrong.emplace_back("less than 1 GiB of disk is free here");
  facts["wrong"] = wrong;
  return facts;
}

std::string doctor_text(const nlohmann::json& facts) {
  const auto list = [](const nlohmann::json& items) {
    return items.empty() ? std::string("none")
                         : printable(fmt::format("{}", fmt::join(items.get<std::vector<std::string>>(), ", ")));
  };
  const auto word = [&facts](const char* key) { return facts[key].is_null() ? "?" : facts[key].get<std::string>(); };
  std::string text;
  const auto line = [&text](const std::string& name, const std::string& value) {
    text += fmt::format("{:<13}{}\n", name, value);
  };
  line("loci", word("loci"));
  line("torch", fmt::format("{}  ({})", word("torch"), list(facts["torch_library"])));
  line("compiler", word("compiler"));
  line("cpu", word("cpu"));
  line("level", fmt::format("{} (best of this CPU: {}), bfloat16 products {}", word("level"), word("best_level"),
                            facts["bfloat16"].get<bool>() ? "fast" : "slow"));
  line("threads", fmt::format("{} on {} cores{}", facts["threads"].get<int>(), facts["cores"].get<int>(),
                              word("OMP_NUM_THREADS").empty() ? "" : ", OMP_NUM_THREADS=" + word("OMP_NUM_THREADS")));
  line("openmp", list(facts["openmp"]));
  line("huge pages", word("huge_pages"));
  line("memory", format_bytes(facts["memory_available"].get<double>()) + " available");
  line("disk", format_bytes(facts["disk_available"].get<double>()) + " available here");
  const auto wrong = facts["wrong"].get<std::vector<std::string>>();
  text += wrong.empty() ? "\nNothing is wrong.\n" : "\nWrong:\n";
  for (const std::string& problem : wrong) text += fmt::format("  - {}\n", problem);
  return text;
}

}  // namespace

void add_doctor(CLI::App& program, Action& action) {
  auto* verb = program.add_subcommand("doctor", "Show versions, CPU level, threads, memory, and what is wrong");
  auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "Print JSON");
  verb->footer("Examples:\n  loci doctor\n  loci doctor --json");
  verb->callback([json, &action] {
    action = [json] {
      const nlohmann::json facts = doctor_facts();
      if (*json) return print_json(facts, 2);
      print(doctor_text(facts));
    };
  });
}

}  // namespace loci::cli
