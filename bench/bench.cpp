#include "bench/bench.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bench/cases.h"
#include "bench/exchange.h"
#include "bench/mapped.h"
#include "bench/memory.h"
#include "bench/memory_map.h"
#include "bench/network.h"
#include "bench/ode.h"
#include "bench/pairwise.h"
#include "bench/resnet.h"
#include "bench/timing.h"
#include "loci/base/check.h"

namespace loci {
namespace {

using bench::Bound;
using bench::Case;
using bench::Machine;

std::string key_of(const Case& c, const char* which) {
  return c.name + " " + c.size + " " + which;
}

double estimate_of(const Case& c, const Machine& machine) {
  switch (c.bound) {
    case Bound::stream:
      return c.bytes / machine.copy;
    case Bound::gather:
      return c.bytes / machine.gather;
    case Bound::products:
      return c.operations / machine.product + c.bytes / machine.copy;
  }
  return 0;
}

nlohmann::json result_of(const Case& c, const bench::Timing& timing, const Machine& machine) {
  const std::vector<double> fast = timing.seconds(key_of(c, "fast"));
  const double median = fast[fast.size() / 2], definition = timing.median(key_of(c, "definition"));
  const double bandwidth = c.bound == Bound::gather ? machine.gather : machine.copy;
  return {{"operator", c.name},
          {"size", c.size},
          {"seconds", median},
          {"seconds_least", fast.front()},
          {"seconds_most", fast.back()},
          {"bytes", c.bytes},
          {"bytes_per_second", c.bytes / median},
          {"share_of_bandwidth", c.bytes / median / bandwidth},
          {"estimate_seconds", estimate_of(c, machine)},
          {"definition_seconds", definition},
          {"times_the_definition", definition / median}};
}

void print_table(const nlohmann::json& report, std::ostream& out) {
  const auto& machine = report["machine"];
  out << fmt::format("level {}, {} threads; copy {:.1f} GB/s, random rows {:.1f} GB/s, products {:.0f} GFLOP/s\n",
                     machine["level"].get<std::string>(), machine["threads"].get<int>(),
                     machine["copy_bytes_per_second"].get<double>() / 1e9,
                     machine["gather_bytes_per_second"].get<double>() / 1e9,
                     machine["product_operations_per_second"].get<double>() / 1e9);
  out << fmt::format(
      "median of {} repeats; share of bandwidth: of random rows for reads, of the copy for the others\n\n",
      report["repeats"].get<int>());
  out << fmt::format("{:<20} {:<40} {:>10} {:>19} {:>8} {:>7} {:>10} {:>9}\n", "operator", "size", "ms",
                     "least .. most", "GB/s", "share", "estimate", "speed-up");
  for (const auto& r : report["results"]) {
    const auto ms = [&](const char* key) { return r[key].get<double>() * 1e3; };
    out << fmt::format("{:<20} {:<40} {:>10.3f} {:>19} {:>8.2f} {:>6.0f}% {:>10.3f} {:>8.1f}x\n",
                       r["operator"].get<std::string>(), r["size"].get<std::string>(), ms("seconds"),
                       fmt::format("{:.3f} .. {:.3f}", ms("seconds_least"), ms("seconds_most")),
                       r["bytes_per_second"].get<double>() / 1e9, r["share_of_bandwidth"].get<double>() * 100,
                       ms("estimate_seconds"), r["times_the_definition"].get<double>());
  }
}

nlohmann::json run_operators(const std::vector<std::string>& names, int repeats) {
  nlohmann::json results = nlohmann::json::array();
  Machine machine{};
  for (const std::string& name : names) {
    const std::vector<Case> cases = bench::cases_of(name);
    bench::Timing timing(repeats);
    bench::add_machine(timing, 512, int64_t{1} << 30);
    for (const Case& c : cases) {
      timing.add(key_of(c, "fast"), c.fast);
      timing.add(key_of(c, "definition"), c.definition);
    }
    timing.run();
    machine = bench::machine_of(timing);
    for (const Case& c : cases) results.push_back(result_of(c, timing, machine));
  }
  return {{"machine", bench::machine_json(machine)}, {"repeats", repeats}, {"results", results}};
}

// What is measured beside the operators.
struct Whole {
  const char* name;
  nlohmann::json (*run)(const BenchOptions&);
  std::string (*text)(const nlohmann::json& report);
};
constexpr Whole kWholes[] = {{"memory", bench::run_memory, bench::memory_table},
                             {"memory_map", bench::run_memory_map, bench::memory_map_table},
                             {"resnet", bench::run_resnet, bench::resnet_table},
                             {"pairwise", bench::run_pairwise, bench::pairwise_table},
                             {"mapped", bench::run_mapped, bench::mapped_text},
                             {"ode", bench::run_ode, bench::ode_table},
                             {"exchange", bench::run_exchange, bench::exchange_text},
                             {"network", bench::run_network, bench::network_text}};

void check(const BenchOptions& options) {
  const auto& known = bench_names();
  for (const std::string& name : options.names) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      fail(ExitCode::usage, "bench", fmt::format("the operator must be one of {}", fmt::join(known, ", ")), name);
    }
  }
  if (options.repeats < 1)
    fail(ExitCode::usage, "bench", "repeats must be at least 1", fmt::to_string(options.repeats));
  static constexpr int64_t most = int64_t{1} << 40;  // so that sizes are far from overflow
  const auto need = [](const char* what, const std::vector<int64_t>& values, int64_t least, int64_t step) {
    for (const int64_t value : values) {
      if (value >= least && value <= most && value % step == 0) continue;
      fail(ExitCode::usage, "bench",
           fmt::format("--{} must be from {} to {}{}", what, least, most,
                       step == 1 ? "" : fmt::format(" and a multiple of {}", step)),
           fmt::to_string(value));
    }
  };
  need("rows", options.rows, 32, 1);
  need("tokens", options.tokens, 1, 1);
  need("width", options.widths, 8, 8);
}

}  // namespace

const std::vector<std::string>& bench_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Whole& whole : kWholes) all.emplace_back(whole.name);
    const std::vector<std::string> operators = bench::operator_names();
    all.insert(all.end(), operators.begin(), operators.end());
    return all;
  }();
  return names;
}

int run_benchmarks(const BenchOptions& options, std::ostream& out) {
  check(options);
  std::vector<std::string> operators = options.names;
  if (operators.empty()) operators = bench::operator_names();
  for (const Whole& whole : kWholes) {
    if (std::erase(operators, whole.name) == 0) continue;
    const nlohmann::json report = whole.run(options);
    if (report.is_null()) continue;  // of a rank that does not show results
    out << (options.json ? report.dump(2) + "\n" : whole.text(report));
  }
  if (!operators.empty()) {
    const nlohmann::json report = run_operators(operators, options.repeats);
    if (options.json) {
      out << report.dump(2) << "\n";
    } else {
      print_table(report, out);
    }
  }
  return 0;
}

}  // namespace loci
