#include "bench/bench.h"

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/cases.h"
#include "loci/base/check.h"
#include "loci/base/cpu_level.h"

namespace loci {
namespace {

using bench::Bound;
using bench::Case;

// Google Benchmark decides how often to run; this keeps the seconds of every repeat.
class Collector : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || run.iterations == 0) continue;
      seconds_[run.run_name.function_name].push_back(run.real_accumulated_time / static_cast<double>(run.iterations));
    }
  }
  std::vector<double> seconds_of(const std::string& name) const {
    std::vector<double> sorted = seconds_.at(name);
    std::sort(sorted.begin(), sorted.end());
    return sorted;
  }
  double median_of(const std::string& name) const {
    const std::vector<double> sorted = seconds_of(name);
    return sorted[sorted.size() / 2];
  }

 private:
  std::map<std::string, std::vector<double>> seconds_;
};

void add(const std::string& name, const std::function<void()>& run, int repeats) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [run](benchmark::State& state) {
                                 const torch::InferenceMode inference;
                                 for (auto step : state) {
                                   (void)step;
                                   run();
                                 }
                               })
      ->UseRealTime()
      ->Repetitions(repeats)
      ->MinTime(0.02);
}

// Repeats of all benchmarks in random order, so that a busy moment of the machine meets them alike.
void run_interleaved(Collector& collector) {
  std::string program = "loci bench", interleave = "--benchmark_enable_random_interleaving=true";
  char* arguments[] = {program.data(), interleave.data(), nullptr};
  int count = 2;
  benchmark::Initialize(&count, arguments);
  benchmark::RunSpecifiedBenchmarks(&collector, "all");
  benchmark::ClearRegisteredBenchmarks();
}

std::string key_of(const Case& c, const char* which) {
  return c.name + " " + c.size + " " + which;
}

struct Speeds {
  double copy, gather, product;  // bytes/s, bytes/s, operations/s
};

double estimate_of(const Case& c, const Speeds& machine) {
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

nlohmann::json result_of(const Case& c, const Collector& collector, const Speeds& machine) {
  const std::vector<double> fast = collector.seconds_of(key_of(c, "fast"));
  const double median = fast[fast.size() / 2], definition = collector.median_of(key_of(c, "definition"));
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
  out << fmt::format("{:<16} {:<40} {:>10} {:>19} {:>8} {:>7} {:>10} {:>9}\n", "operator", "size", "ms",
                     "least .. most", "GB/s", "share", "estimate", "speed-up");
  for (const auto& r : report["results"]) {
    const auto ms = [&](const char* key) { return r[key].get<double>() * 1e3; };
    out << fmt::format("{:<16} {:<40} {:>10.3f} {:>19} {:>8.2f} {:>6.0f}% {:>10.3f} {:>8.1f}x\n",
                       r["operator"].get<std::string>(), r["size"].get<std::string>(), ms("seconds"),
                       fmt::format("{:.3f} .. {:.3f}", ms("seconds_least"), ms("seconds_most")),
                       r["bytes_per_second"].get<double>() / 1e9, r["share_of_bandwidth"].get<double>() * 100,
                       ms("estimate_seconds"), r["times_the_definition"].get<double>());
  }
}

}  // namespace

const std::vector<std::string>& bench_names() {
  static const std::vector<std::string> names = {"select",        "search",  "search_backward", "read",
                                                 "read_backward", "row_sum", "row_update"};
  return names;
}

int run_benchmarks(const BenchOptions& options, std::ostream& out) {
  const auto& known = bench_names();
  for (const std::string& name : options.names) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      fail(ExitCode::usage, "bench", fmt::format("the operator must be one of {}", fmt::join(known, ", ")), name);
    }
  }
  if (options.repeats < 1)
    fail(ExitCode::usage, "bench", "repeats must be at least 1", fmt::to_string(options.repeats));

  nlohmann::json results = nlohmann::json::array();
  Speeds speeds{};
  const bench::Machine machine = bench::machine();
  for (const std::string& name : options.names.empty() ? known : options.names) {
    const std::vector<Case> cases = bench::cases_of(name);
    // The machine's own speed is measured among the cases of each operator.
    add("copy", machine.copy, options.repeats);
    add("gather", machine.gather, options.repeats);
    add("product", machine.product, options.repeats);
    for (const Case& c : cases) {
      add(key_of(c, "fast"), c.fast, options.repeats);
      add(key_of(c, "definition"), c.definition, options.repeats);
    }
    Collector collector;
    run_interleaved(collector);
    speeds = {machine.copy_bytes / collector.median_of("copy"), machine.gather_bytes / collector.median_of("gather"),
              machine.product_operations / collector.median_of("product")};
    for (const Case& c : cases) results.push_back(result_of(c, collector, speeds));
  }

  const nlohmann::json report = {{"machine",
                                  {{"level", name_of(cpu_level())},
                                   {"threads", torch::get_num_threads()},
                                   {"copy_bytes_per_second", speeds.copy},
                                   {"gather_bytes_per_second", speeds.gather},
                                   {"product_operations_per_second", speeds.product}}},
                                 {"repeats", options.repeats},
                                 {"results", results}};
  if (options.json) {
    out << report.dump(2) << "\n";
  } else {
    print_table(report, out);
  }
  return 0;
}

}  // namespace loci
