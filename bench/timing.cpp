#include "bench/timing.h"

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <optional>

#include "loci/base/check.h"
#include "loci/base/cpu_level.h"
#include "loci/base/progress.h"
#include "loci/table/page_memory.h"

namespace loci::bench {
namespace {

using torch::Tensor;

class Collector : public benchmark::BenchmarkReporter {
 public:
  explicit Collector(std::map<std::string, std::vector<double>>& seconds) : seconds_(seconds) {}
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || run.iterations == 0) continue;
      seconds_[run.run_name.function_name].push_back(run.real_accumulated_time / static_cast<double>(run.iterations));
    }
  }

 private:
  std::map<std::string, std::vector<double>>& seconds_;
};

constexpr int64_t kCopyWords = 1 << 26;                             // 256 MB each way
constexpr int64_t kMostGatherBytes = 1 << 30, kGathered = 1 << 28;  // of the table; read by one call
constexpr int64_t kProductWidth = 1024;

// As a read of rows does at its best: four rows at a time, those two such steps ahead are fetched line by line
// meanwhile. One word of each line is added, so that every line must come and the additions cost nothing.
void gather(const Tensor& table, const Tensor& index) {
  constexpr int64_t together = 4, ahead = 8, line = 8;
  const int64_t words = table.size(1);
  const int64_t *data = table.const_data_ptr<int64_t>(), *which = index.const_data_ptr<int64_t>();
  at::parallel_for(0, index.numel() / together, 1024, [&](int64_t first, int64_t last) {
    int64_t sum[together] = {};
    for (int64_t i = first * together; i < last * together; i += together) {
      const int64_t *row[together], *next[together];
      for (int64_t r = 0; r < together; ++r) {
        row[r] = data + which[i + r] * words;
        next[r] = data + which[std::min(i + r + ahead, last * together - 1)] * words;
      }
      for (int64_t w = 0; w < words; w += line) {
        for (int64_t r = 0; r < together; ++r) __builtin_prefetch(next[r] + w);
        for (int64_t r = 0; r < together; ++r) sum[r] += row[r][w];
      }
    }
    benchmark::DoNotOptimize(sum);
  });
}

}  // namespace

void Timing::add(const std::string& name, std::function<void()> run, Autograd autograd) {
  const std::function<void()> guarded = [run = std::move(run), autograd] {
    std::optional<torch::InferenceMode> inference;
    if (autograd == Autograd::off) inference.emplace();
    run();
  };
  warm_up_.push_back(guarded);
  const auto timed = [guarded](benchmark::State& state) {
    for (auto step : state) {
      (void)step;
      guarded();
    }
  };
  benchmark::RegisterBenchmark(name.c_str(), timed)->UseRealTime()->Repetitions(repeats_)->MinTime(0.02);
}

void Timing::run() {
  std::string program = "loci bench", interleave = "--benchmark_enable_random_interleaving=true";
  char* arguments[] = {program.data(), interleave.data(), nullptr};
  int count = 2;
  benchmark::Initialize(&count, arguments);
  for (const auto& run : warm_up_) run();
  Collector collector(seconds_);
  benchmark::RunSpecifiedBenchmarks(&collector, "all");
  benchmark::ClearRegisteredBenchmarks();
}

std::vector<double> Timing::seconds(const std::string& name) const {
  std::vector<double> sorted = seconds_.at(name);
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

double Timing::median(const std::string& name) const {
  const std::vector<double> sorted = seconds(name);
  return sorted[sorted.size() / 2];
}

void add_machine(Timing& timing, int64_t row_bytes, int64_t table_bytes) {
  const Tensor from = torch::ones({kCopyWords}), to = torch::zeros({kCopyWords});
  timing.add("machine copy", [=] { to.copy_(from); });
  const int64_t rows = std::min(kMostGatherBytes, table_bytes) / row_bytes;
  const Tensor table = zero_pages("bench", rows, row_bytes / 8, torch::kLong, PageSize::huge);
  table.fill_(1);
  const Tensor index = torch::randint(rows, {kGathered / row_bytes}, torch::kLong);
  timing.add("machine gather", [=] { gather(table, index); });
  const Tensor left = torch::randn({kProductWidth, kProductWidth}),
               right = torch::randn({kProductWidth, kProductWidth});
  timing.add("machine product", [=] { left.mm(right); });
}

Machine machine_of(const Timing& timing) {
  return {2.0 * 4 * kCopyWords / timing.median("machine copy"), kGathered / timing.median("machine gather"),
          2.0 * kProductWidth * kProductWidth * kProductWidth / timing.median("machine product")};
}

nlohmann::json machine_json(const Machine& machine) {
  return {{"level", name_of(cpu_level())},
          {"threads", torch::get_num_threads()},
          {"copy_bytes_per_second", machine.copy},
          {"gather_bytes_per_second", machine.gather},
          {"product_operations_per_second", machine.product}};
}

std::string number_or_dash(const nlohmann::json& value, const char* format) {
  return value.is_null() ? "-" : fmt::format(fmt::runtime(format), value.get<double>());
}

void require_free(const std::string& what, double bytes, const std::string& size) {
  const auto available = static_cast<double>(available_bytes());
  if (bytes <= available) return;
  fail(ExitCode::resources, "bench",
       fmt::format("{} must fit into the memory that is free, {}", what, format_bytes(available)),
       fmt::format("{} for {}", format_bytes(bytes), size));
}

}  // namespace loci::bench
