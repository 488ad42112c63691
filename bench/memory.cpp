#include "bench/memory.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>

#include "bench/stock_memory.h"
#include "bench/timing.h"
#include "loci/base/check.h"
#include "loci/nn/memory/product_key_memory.h"
#include "loci/ops/product_key_search/product_key_search.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/local_table.h"
#include "loci/table/usage.h"
#include "loci/train/precision.h"

// Legend: T tokens, d width = D width of a row, H heads, w half a key's width, n sub-keys of a half, K top_k, N rows,
// U distinct rows read.

namespace loci::bench {
namespace {

using torch::Tensor;

// The layer of the paper's larger models, scaled to the width.
constexpr int64_t kHeads = 4, kTopK = 32;

struct Size {
  int64_t rows, tokens, width;
  at::ScalarType dtype;
  int64_t key_width() const { return width / 2; }
  int64_t sub_keys() const { return sub_keys_for(rows).n2; }
  int64_t element() const { return static_cast<int64_t>(c10::elementSize(dtype)); }
  std::string dtype_name() const { return dtype == torch::kFloat ? "float32" : "bfloat16"; }
  // The query net of many tokens in autocast, as in training with bfloat16 where the CPU multiplies it faster.
  bool autocast() const { return dtype != torch::kFloat && tokens > 1 && cpu_has_bfloat16(); }
};

// Ours: the layer, its table and optimisers.
struct Layer {
  TablePtr table;
  std::shared_ptr<ProductKeyMemory> memory;
  std::unique_ptr<OptimizerSet> optimizers;
  std::shared_ptr<Usage> usage;  // counts in training, as runs do
  bool autocast;
  Tensor x, grad;        // [T, d]
  MemoryReads reads;     // of x, detached
  Tensor random_index;   // [T, H * K] rows drawn evenly: `read` measures memory, not the habits of queries
  int64_t distinct = 0;  // U

  explicit Layer(const Size& size) : autocast(size.autocast()) {
    auto local = std::make_shared<LocalTable>("table", size.rows, size.width, LocalTableOptions{size.dtype});
    fill_rows(local->store().values().detach());
    table = local;
    ProductKeyMemoryOptions options;
    options.width = size.width;
    options.heads = kHeads;
    options.top_k = kTopK;
    options.key_width = size.key_width();
    memory = std::make_shared<ProductKeyMemory>("memory", options, table, 0);
    usage = std::make_shared<Usage>(size.rows);
    std::vector<NamedParameter> dense;
    for (const auto& parameter : memory->named_parameters()) dense.push_back({parameter.key(), parameter.value()});
    optimizers = std::make_unique<OptimizerSet>(dense, DenseOptimizerOptions{},
                                                std::vector<std::pair<TablePtr, RowOptimizerOptions>>{{table, {}}}, 0);
    x = torch::randn({size.tokens, size.width});
    grad = torch::randn({size.tokens, size.width}) * 1e-3;
    const torch::NoGradGuard no_gradient;
    reads = memory->read_with_indices(x);
    random_index = torch::randint(size.rows, {size.tokens, kHeads * kTopK}, torch::kLong);
    distinct = std::get<0>(at::_unique2(reads.index)).numel();
  }

  Tensor forward() {
    const PrecisionGuard guard(autocast);
    return memory->forward(x);
  }
  void train() {
    memory->train();
    forward().backward(grad);
    optimizers->step(step_++, 1'000'000'000);
  }
  // From the reads of x: their rows' gradient and the update.
  void update() {
    const int64_t T = x.size(0);
    table->store().references().add({reads.index.view({T, -1}), reads.weight.view({T, -1}), grad, 0, 0});
    optimizers->rows_of(*table).step();
  }

 private:
  int64_t step_ = 0;
};

struct Work {
  double operations = 0;  // multiplications and additions of matrix products
  double gathered = 0;    // bytes of random rows
  double streamed = 0;    // other bytes
  double seconds(const Machine& m) const { return operations / m.product + gathered / m.gather + streamed / m.copy; }
};

double product(std::initializer_list<int64_t> factors) {
  double result = 1;
  for (const int64_t factor : factors) result *= static_cast<double>(factor);
  return result;
}

// Least work of each part, docs/performance.md: the products of the query net and the sub-scores (three times in
// training, the sub-scores' backward through K selected of n keys alone), each distinct row once from memory (`read`:
// every row, they are drawn evenly), and in training its value and two moments read and written.
Work work_of(const std::string& name, const Size& s, int64_t distinct) {
  const int64_t T = s.tokens, d = s.width, M = kHeads * kTopK, key = s.key_width(), n = s.sub_keys();
  const double rows = product({distinct, d, s.element()});
  const Work search{product({2, T, kHeads, n, key}), 0, product({T, kHeads, key, 4}) + product({T, M, 12})};
  const double query = product({2, T, d, kHeads, key});
  const Work update{0, product({distinct, d, 2 * s.element() + 16}), product({T, M, 20})};
  if (name == "search") return search;
  if (name == "read") return {0, product({T, M, d, s.element()}), product({T, M, 12}) + product({T, d, 4})};
  if (name == "update") return update;
  if (name == "train") {
    return {3 * query + search.operations + product({4, T, kHeads, kTopK, key}), rows + update.gathered,
            search.streamed + update.streamed};
  }
  // forward and decode; a single token must bring in all weights and sub-keys.
  return {query + search.operations, rows,
          search.streamed + product({kHeads, key, d, 4}) + product({kHeads, n, key, 4})};
}

std::vector<std::string> names_for(const Size& size) {
  if (size.tokens == 1) return {"decode"};
  if (size.dtype != torch::kFloat) return {"forward", "train", "read", "update"};
  return {"forward", "train", "search", "read", "update"};
}

// The stock memory needs its table four times over: values, gradient, two moments.
bool stock_fits(const Size& size) {
  return product({size.rows, size.width, 4, 4}) < 10e9 && size.sub_keys() * size.sub_keys() == size.rows &&
         size.sub_keys() >= kTopK;
}

// Rows and their two moments, whose huge pages all come in where rows are drawn evenly; the stock memory's the same;
// and of each token inputs, queries, scores and reads.
void check_memory(const Size& size, bool stock) {
  const double each = static_cast<double>(size.element() + 8) + (stock && stock_fits(size) ? 16 : 0);
  const double numbers = static_cast<double>(6 * size.width + 4 * kHeads * size.key_width() +
                                             2 * kHeads * size.sub_keys() + 8 * kHeads * kTopK);
  require_free("rows, moments and tokens",
               product({size.rows, size.width}) * each + 4 * static_cast<double>(size.tokens) * numbers,
               fmt::format("{} rows of {} in {} and {} tokens", size.rows, size.width, size.dtype_name(), size.tokens));
}

void add_ours(Timing& timing, const std::vector<std::string>& names, const std::shared_ptr<Layer>& layer) {
  const auto forward = [layer] {
    layer->memory->eval();
    layer->forward();
  };
  for (const std::string& name : names) {
    if (name == "forward" || name == "decode") timing.add(name, forward);
    if (name == "train") {
      timing.add(
          name,
          [layer] {
            const ObserverScope counting(*layer->memory, layer->usage);
            layer->train();
          },
          Autograd::on);
    }
    if (name == "search") {
      const torch::NoGradGuard no_gradient;
      const Tensor query = layer->memory->query(layer->x).detach();
      timing.add(name, [layer, query] {
        product_key_search(query, layer->memory->keys1, layer->memory->keys2, kTopK, layer->table->rows());
      });
    }
    if (name == "read") {
      const int64_t T = layer->x.size(0);
      timing.add(name, [layer, T] { layer->table->read(layer->random_index, layer->reads.weight.view({T, -1}), 0); });
    }
    if (name == "update") timing.add(name, [layer] { layer->update(); }, Autograd::on);
  }
}

void add_stock(Timing& timing, const std::vector<std::string>& names, const Size& size, const Layer& layer) {
  const auto stock =
      std::make_shared<StockMemory>(StockMemory::Size{size.width, kHeads, size.key_width(), kTopK, size.sub_keys()});
  const Tensor x = layer.x, grad = layer.grad;
  const Tensor index = layer.reads.index.view({size.tokens, -1}), weight = layer.reads.weight.view({size.tokens, -1});
  const Tensor random_index = layer.random_index;
  const Tensor query = torch::randn({2, kHeads, size.tokens, size.key_width() / 2});
  for (const std::string& name : names) {
    if (name == "forward" || name == "decode") timing.add("stock " + name, [=] { stock->forward(x); });
    if (name == "train") timing.add("stock " + name, [=] { stock->train(x, grad); }, Autograd::on);
    if (name == "search") timing.add("stock " + name, [=] { stock->search(query); });
    if (name == "read") timing.add("stock " + name, [=] { stock->read(random_index, weight); });
    if (name == "update") timing.add("stock " + name, [=] { stock->update(index, weight, grad); }, Autograd::on);
  }
}

std::vector<double> per_token(std::vector<double> seconds, double factor) {
  for (double& value : seconds) value *= factor;
  return seconds;
}

void measure(const Size& size, const BenchOptions& options, nlohmann::json& report) {
  torch::manual_seed(0);
  const auto layer = std::make_shared<Layer>(size);
  const std::vector<std::string> names = names_for(size);
  Timing timing(options.repeats);
  add_machine(timing, size.width * size.element(), size.rows * size.width * size.element());
  add_ours(timing, names, layer);
  if (options.stock && stock_fits(size)) add_stock(timing, names, size, *layer);
  timing.run();
  const Machine machine = machine_of(timing);
  report["machine"] = machine_json(machine);
  for (const std::string& name : names) {
    const std::vector<double> seconds = timing.seconds(name);
    const double median = timing.median(name), us = 1e6 / static_cast<double>(size.tokens);
    const Work work = work_of(name, size, layer->distinct);
    nlohmann::json row = {{"name", name},
                          {"rows", size.rows},
                          {"tokens", size.tokens},
                          {"width", size.width},
                          {"dtype", size.dtype_name()},
                          {"us_per_token", median * us},
                          {"us_per_token_least", seconds.front() * us},
                          {"us_per_token_most", seconds.back() * us},
                          {"us_per_token_repeats", per_token(seconds, us)},
                          {"stock_us_per_token", nullptr},
                          {"ratio", nullptr},
                          {"distinct_rows", layer->distinct},
                          {"us_per_distinct_row", median * 1e6 / static_cast<double>(layer->distinct)},
                          {"operations", work.operations},
                          {"bytes", work.gathered + work.streamed},
                          {"estimate_us_per_token", work.seconds(machine) * us},
                          {"share_of_bound", work.seconds(machine) / median}};
    if (timing.has("stock " + name)) {
      const double stock = timing.median("stock " + name);
      row["stock_us_per_token"] = stock * us;
      row["stock_us_per_token_repeats"] = per_token(timing.seconds("stock " + name), us);
      row["ratio"] = stock / median;
    }
    report["results"].push_back(std::move(row));
  }
}

// One dtype or both, cases from small tables to large.
std::vector<Size> sizes_of(const BenchOptions& options) {
  std::vector<Size> sizes;
  const std::vector<int64_t> rows = options.rows.empty() ? std::vector<int64_t>{1 << 18, 1 << 20} : options.rows;
  const std::vector<int64_t> tokens = options.tokens.empty() ? std::vector<int64_t>{4096, 512, 1} : options.tokens;
  const std::vector<int64_t> widths = options.widths.empty() ? std::vector<int64_t>{512} : options.widths;
  for (const int64_t width : widths) {
    for (const int64_t N : rows) {
      for (const int64_t T : tokens) {
        sizes.push_back({N, T, width, torch::kFloat});
        if (options.bfloat16) sizes.push_back({N, T, width, torch::kBFloat16});
      }
    }
  }
  return sizes;
}

}  // namespace

nlohmann::json run_memory(const BenchOptions& options) {
  nlohmann::json report = {{"repeats", options.repeats}, {"heads", kHeads}, {"top_k", kTopK}};
  report["results"] = nlohmann::json::array();
  const std::vector<Size> sizes = sizes_of(options);
  for (const Size& size : sizes) check_memory(size, options.stock);
  for (const Size& size : sizes) measure(size, options, report);
  return report;
}

std::string memory_table(const nlohmann::json& report) {
  const auto& machine = report["machine"];
  std::string text = fmt::format(
      "A product-key memory ({} heads, top-k {}, key width d / 2) beside stock LibTorch operators in float32.\n"
      "level {}, {} threads; copy {:.1f} GB/s, random rows {:.1f} GB/s, products {:.0f} GFLOP/s; medians of {}\n\n",
      report["heads"].get<int>(), report["top_k"].get<int>(), machine["level"].get<std::string>(),
      machine["threads"].get<int>(), machine["copy_bytes_per_second"].get<double>() / 1e9,
      machine["gather_bytes_per_second"].get<double>() / 1e9,
      machine["product_operations_per_second"].get<double>() / 1e9, report["repeats"].get<int>());
  text += fmt::format("{:<8} {:>9} {:>7} {:>6} {:<9} {:>10} {:>19} {:>10} {:>7} {:>10} {:>6} {:>11}\n", "work", "rows",
                      "tokens", "width", "dtype", "us/token", "least .. most", "stock", "ratio", "estimate", "share",
                      "us/row read");
  for (const auto& r : report["results"]) {
    text += fmt::format(
        "{:<8} {:>9} {:>7} {:>6} {:<9} {:>10.2f} {:>19} {:>10} {:>7} {:>10.2f} {:>5.0f}% {:>11.3f}\n",
        r["name"].get<std::string>(), r["rows"].get<int64_t>(), r["tokens"].get<int64_t>(), r["width"].get<int64_t>(),
        r["dtype"].get<std::string>(), r["us_per_token"].get<double>(),
        fmt::format("{:.2f} .. {:.2f}", r["us_per_token_least"].get<double>(), r["us_per_token_most"].get<double>()),
        number_or_dash(r["stock_us_per_token"], "{:.2f}"), number_or_dash(r["ratio"], "{:.1f}x"),
        r["estimate_us_per_token"].get<double>(), r["share_of_bound"].get<double>() * 100,
        r["us_per_distinct_row"].get<double>());
  }
  return text + "\n";
}

}  // namespace loci::bench
