#include "bench/resnet.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <memory>
#include <utility>
#include <vector>

#include "bench/timing.h"
#include "loci/models/resnet.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/usage.h"
#include "loci/train/precision.h"

namespace loci::bench {
namespace {

constexpr int64_t kResnetBatch = 128, kResnetEdge = 32, kResnetClasses = 10;

// Forward, loss, backward, update of everything: one step on the same images.
struct ResnetStep {
  Resnet model;
  std::unique_ptr<OptimizerSet> optimizers;
  at::Tensor images, labels;
  bool bfloat16;
  int64_t step = 0;

  ResnetStep(const ResnetOptions& options, bool in_bfloat16)
      : model(options, 0),
        images(torch::randn({kResnetBatch, 3, kResnetEdge, kResnetEdge}).contiguous(at::MemoryFormat::ChannelsLast)),
        labels(torch::randint(0, kResnetClasses, {kResnetBatch}, torch::kLong)),
        bfloat16(in_bfloat16) {
    DenseOptimizerOptions dense;
    dense.kind = DenseRule::sgd;
    dense.learning_rate = 0.01;
    dense.weight_decay = 1e-4;
    dense.clip_norm = 0;
    std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables;
    if (const auto& memory = model.memory()) {
      tables.push_back({memory->table(), {}});
      memory->add_observer(std::make_shared<Usage>(options.memory.rows));  // as in training
    }
    optimizers = std::make_unique<OptimizerSet>(model.dense_parameters(), dense, tables, 0);
  }

  void train() {
    at::Tensor loss;
    {
      const PrecisionGuard precision(bfloat16);
      loss = at::cross_entropy_loss(model.forward(images), labels);
    }
    loss.backward();
    optimizers->step(step++, 1'000'000'000);
  }
};

}  // namespace

nlohmann::json run_resnet(const BenchOptions& options) {
  nlohmann::json report = {{"repeats", options.repeats}, {"batch", kResnetBatch}, {"results", nlohmann::json::array()}};
  for (const int64_t rows : options.rows.empty() ? std::vector<int64_t>{4096} : options.rows) {
    torch::manual_seed(0);
    ResnetOptions plain;
    plain.classes = kResnetClasses;
    ResnetOptions side = plain;
    side.has_memory = true;
    side.memory.rows = rows;
    constexpr int64_t numbers = 3 * 64 * 2;  // values and moments, for both precisions
    require_free("rows and moments", 4.0 * static_cast<double>(rows) * numbers, fmt::format("{} rows", rows));
    const std::vector<std::pair<std::string, ResnetOptions>> networks = {{"plain", plain}, {"side", side}};
    std::vector<std::string> precisions = {"float32"};
    if (options.bfloat16) precisions.push_back("bfloat16");
    Timing timing(options.repeats);
    add_machine(timing, 256, rows * 256);
    for (const std::string& precision : precisions) {
      for (const auto& [name, network] : networks) {
        const auto step = std::make_shared<ResnetStep>(network, precision == "bfloat16");
        timing.add(name + precision, [step] { step->train(); }, Autograd::on);
      }
    }
    timing.run();
    report["machine"] = machine_json(machine_of(timing));
    for (const std::string& precision : precisions) {
      for (const auto& [name, network] : networks) {
        const std::vector<double> seconds = timing.seconds(name + precision);
        const double median = timing.median(name + precision);
        report["results"].push_back({{"name", name},
                                     {"precision", precision},
                                     {"rows", network.has_memory ? rows : 0},
                                     {"multiply_adds", resnet_multiply_adds(network, kResnetEdge, kResnetEdge)},
                                     {"ms", median * 1e3},
                                     {"ms_least", seconds.front() * 1e3},
                                     {"ms_most", seconds.back() * 1e3},
                                     {"times_plain", median / timing.median("plain" + precision)}});
      }
    }
  }
  return report;
}

std::string resnet_table(const nlohmann::json& report) {
  const auto& machine = report["machine"];
  std::string text = fmt::format(
      "A training step of ResNet-20 on {} images of {} x {}, channels last, with SGD; and with a memory at the side "
      "of\n"
      "its last stage. bfloat16: by autocast.\n"
      "level {}, {} threads; products {:.0f} GFLOP/s; medians of {}\n\n",
      report["batch"].get<int>(), kResnetEdge, kResnetEdge, machine["level"].get<std::string>(),
      machine["threads"].get<int>(), machine["product_operations_per_second"].get<double>() / 1e9,
      report["repeats"].get<int>());
  text += fmt::format("{:<8} {:<9} {:>8} {:>17} {:>8} {:>19} {:>12}\n", "network", "precision", "rows",
                      "multiply-adds, M", "ms", "least .. most", "times plain");
  for (const auto& r : report["results"]) {
    text += fmt::format("{:<8} {:<9} {:>8} {:>17.2f} {:>8.1f} {:>19} {:>11.2f}x\n", r["name"].get<std::string>(),
                        r["precision"].get<std::string>(), r["rows"].get<int64_t>(),
                        r["multiply_adds"].get<double>() / 1e6, r["ms"].get<double>(),
                        fmt::format("{:.1f} .. {:.1f}", r["ms_least"].get<double>(), r["ms_most"].get<double>()),
                        r["times_plain"].get<double>());
  }
  return text + "\n";
}

}  // namespace loci::bench
