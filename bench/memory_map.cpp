#include "bench/memory_map.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include "bench/stock_memory.h"
#include "bench/timing.h"
#include "loci/nn/memory/side_memory.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/local_table.h"
#include "loci/table/usage.h"

// Legend: B images, T positions of all maps, C channels = D width of a row, H heads, K top_k, Dk key width, S sub-keys
// of a half, N rows.

namespace loci::bench {
namespace {

using torch::Tensor;

// The last stage of a small residual network; a position's searches and reads are the multiply-adds of one 3x3
// convolution with 64 channels: C H Dk + S H Dk + K H D = 36,864.
constexpr int64_t kEdge = 8, kMapHeads = 4, kMapTopK = 16, kMapKeyWidth = 64;

struct MapSize {
  int64_t rows, tokens, channels;
  int64_t images() const { return tokens / (kEdge * kEdge); }
  int64_t sub_keys() const { return sub_keys_for(rows).n2; }
  bool square() const { return sub_keys() * sub_keys() == rows && sub_keys() >= kMapTopK; }
};

Tensor drawn_map(const MapSize& size) {
  return torch::randn({size.images(), size.channels, kEdge, kEdge}).contiguous(at::MemoryFormat::ChannelsLast);
}

// Forward, backward to the map and all parameters, update of all of them: one step.
struct Sided {
  std::shared_ptr<LocalTable> table;
  std::shared_ptr<SideMemory> memory;
  std::unique_ptr<OptimizerSet> optimizers;
  Tensor x, grad;  // [B, C, height, width]
  int64_t step = 0;

  explicit Sided(const MapSize& size) : x(drawn_map(size).requires_grad_()), grad(drawn_map(size) * 1e-3) {
    table = std::make_shared<LocalTable>("table", size.rows, size.channels);
    fill_rows(table->store().values().detach());
    MemoryMapOptions options;
    options.width = size.channels;
    options.heads = kMapHeads;
    options.top_k = kMapTopK;
    options.key_width = kMapKeyWidth;
    memory = std::make_shared<SideMemory>("memory", options, table, 0);
    memory->map->memory->add_observer(std::make_shared<Usage>(size.rows));  // as in training
    std::vector<NamedParameter> dense;
    for (const auto& parameter : memory->named_parameters()) dense.push_back({parameter.key(), parameter.value()});
    optimizers = std::make_unique<OptimizerSet>(dense, DenseOptimizerOptions{},
                                                std::vector<std::pair<TablePtr, RowOptimizerOptions>>{{table, {}}}, 0);
  }

  void forward() {
    memory->eval();
    memory->forward(x);
  }
  void train() {
    memory->train();
    memory->forward(x).backward(grad);
    x.mutable_grad().reset();
    optimizers->step(step++, 1'000'000'000);
  }
};

struct MapWork {
  double operations, bytes;
  double seconds(const Machine& m) const { return operations / m.product + bytes / m.copy; }
};

// What every operator reads and writes once, operator by operator, where each position has q = H Dk numbers of its
// query, r = H K reads and maps of C channels:
//   forward  passes over q: the map writes, the norm reads and writes, the search reads: 4
//            of reads: index written and read; score written, softmax, weight read: 4
//            of maps: x, sum of rows twice, W_o y twice, its norm, and x, that and y of the sum: 8
//   train    q: 1 more for the statistics; dq written, q and keys' gradient, the norm's gradient 5, its map 2: 14
//            of reads: the same of gradients, and index and weight of the row references: index 4, others 9
//            of maps: 22
MapWork map_work_of(const std::string& name, const MapSize& s) {
  const auto T = static_cast<double>(s.tokens), C = static_cast<double>(s.channels);
  const double q = kMapHeads * kMapKeyWidth, reads = kMapHeads * kMapTopK;
  const double query = 2 * C * q, scores = 2 * static_cast<double>(s.sub_keys()) * q, read = 2 * reads * C,
               output = 2 * C * C;
  if (name == "forward") {
    return {T * (query + scores + read + output), T * (4 * q * 4 + reads * (2 * 8 + 4 * 4) + 8 * C * 4)};
  }
  // Scores have a gradient through the K selected of S sub-keys alone.
  const double selected = 4 * reads * kMapKeyWidth;
  return {T * (3 * query + scores + selected + 3 * read + 3 * output),
          T * (14 * q * 4 + reads * (4 * 8 + 9 * 4) + 22 * C * 4)};
}

void measure_map(const MapSize& size, const BenchOptions& options, nlohmann::json& report) {
  const int64_t numbers =
      20 * size.channels + 6 * kMapHeads * kMapKeyWidth + 2 * kMapHeads * size.sub_keys() + 8 * kMapHeads * kMapTopK;
  require_free("rows, moments and maps",
               28 * static_cast<double>(size.rows) * static_cast<double>(size.channels) +
                   4 * static_cast<double>(size.tokens) * static_cast<double>(numbers),
               fmt::format("{} rows of {} and {} tokens", size.rows, size.channels, size.tokens));
  torch::manual_seed(0);
  Timing timing(options.repeats);
  add_machine(timing, size.channels * 4, size.rows * size.channels * 4);
  const auto ours = std::make_shared<Sided>(size);
  timing.add("forward", [ours] { ours->forward(); });
  timing.add("train", [ours] { ours->train(); }, Autograd::on);
  const Tensor x = ours->x, grad = ours->grad;
  if (options.stock && size.square()) {
    const auto stock = std::make_shared<StockSideMemory>(
        StockMemory::Size{size.channels, kMapHeads, kMapKeyWidth, kMapTopK, size.sub_keys(), /*batch_norm=*/true});
    timing.add("stock forward", [=] { stock->forward(x, /*training=*/false); });
    timing.add("stock train", [=] { stock->train(x, grad); }, Autograd::on);
  }
  const auto convolution = std::make_shared<StockConvolution>(size.channels);
  timing.add("convolution forward", [=] { convolution->forward(x); });
  timing.add("convolution train", [=] { convolution->train(x, grad); }, Autograd::on);
  timing.run();

  const Machine machine = machine_of(timing);
  report["machine"] = machine_json(machine);
  for (const std::string name : {"forward", "train"}) {
    const std::vector<double> seconds = timing.seconds(name);
    const double median = timing.median(name), other = timing.median("convolution " + name);
    const MapWork work = map_work_of(name, size);
    nlohmann::json row = {{"name", name},
                          {"rows", size.rows},
                          {"tokens", size.tokens},
                          {"width", size.channels},
                          {"ms", median * 1e3},
                          {"ms_least", seconds.front() * 1e3},
                          {"ms_most", seconds.back() * 1e3},
                          {"stock_ms", nullptr},
                          {"ratio", nullptr},
                          {"convolution_ms", other * 1e3},
                          {"times_the_convolution", median / other},
                          {"operations", work.operations},
                          {"bytes", work.bytes},
                          {"estimate_ms", work.seconds(machine) * 1e3},
                          {"share_of_bound", work.seconds(machine) / median}};
    if (timing.has("stock " + name)) {
      const double stock = timing.median("stock " + name);
      row["stock_ms"] = stock * 1e3;
      row["ratio"] = stock / median;
    }
    report["results"].push_back(std::move(row));
  }
}

}  // namespace

nlohmann::json run_memory_map(const BenchOptions& options) {
  nlohmann::json report = {{"repeats", options.repeats}, {"results", nlohmann::json::array()}};
  const auto or_default = [](const std::vector<int64_t>& given, int64_t usual) {
    return given.empty() ? std::vector<int64_t>{usual} : given;
  };
  for (const int64_t width : or_default(options.widths, 64)) {
    for (const int64_t rows : or_default(options.rows, 4096)) {
      for (const int64_t tokens : or_default(options.tokens, 128 * kEdge * kEdge)) {
        constexpr int64_t positions = kEdge * kEdge;  // whole images
        measure_map({rows, (tokens + positions - 1) / positions * positions, width}, options, report);
      }
    }
  }
  return report;
}

std::string memory_map_table(const nlohmann::json& report) {
  const auto& machine = report["machine"];
  std::string text = fmt::format(
      "A memory at the side of {0} x {0} maps, channels last ({1} heads, top-k {2}, key width {3}): a step forward, "
      "and\n"
      "one of training (backward to map and parameters, updates), beside the same from stock LibTorch operators and\n"
      "beside a 3x3 convolution of as many channels, in float32.\n"
      "level {4}, {5} threads; copy {6:.1f} GB/s, products {7:.0f} GFLOP/s; medians of {8}\n\n",
      kEdge, kMapHeads, kMapTopK, kMapKeyWidth, machine["level"].get<std::string>(), machine["threads"].get<int>(),
      machine["copy_bytes_per_second"].get<double>() / 1e9,
      machine["product_operations_per_second"].get<double>() / 1e9, report["repeats"].get<int>());
  text += fmt::format("{:<8} {:>8} {:>7} {:>6} {:>8} {:>17} {:>9} {:>6} {:>9} {:>6} {:>7} {:>9} {:>6}\n", "work",
                      "rows", "tokens", "width", "ms", "least .. most", "stock", "ratio", "3x3 conv", "times", "MB",
                      "estimate", "share");
  for (const auto& r : report["results"]) {
    text += fmt::format(
        "{:<8} {:>8} {:>7} {:>6} {:>8.2f} {:>17} {:>9} {:>6} {:>9} {:>6} {:>7.0f} {:>9.2f} {:>5.0f}%\n",
        r["name"].get<std::string>(), r["rows"].get<int64_t>(), r["tokens"].get<int64_t>(), r["width"].get<int64_t>(),
        r["ms"].get<double>(), fmt::format("{:.2f} .. {:.2f}", r["ms_least"].get<double>(), r["ms_most"].get<double>()),
        number_or_dash(r["stock_ms"], "{:.2f}"), number_or_dash(r["ratio"], "{:.1f}x"),
        number_or_dash(r["convolution_ms"], "{:.2f}"), number_or_dash(r["times_the_convolution"], "{:.1f}x"),
        r["bytes"].get<double>() / 1e6, r["estimate_ms"].get<double>(), r["share_of_bound"].get<double>() * 100);
  }
  return text + "\n";
}

}  // namespace loci::bench
