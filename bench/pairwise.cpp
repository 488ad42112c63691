#include "bench/pairwise.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <array>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "bench/timing.h"
#include "loci/nn/relation/non_local.h"
#include "loci/ops/non_local_concat/non_local_concat.h"
#include "loci/ops/non_local_concat/non_local_concat_definition.h"
#include "loci/ops/non_local_dot/non_local_dot.h"
#include "loci/ops/non_local_dot/non_local_dot_definition.h"
#include "loci/ops/non_local_softmax/non_local_softmax.h"
#include "loci/ops/non_local_softmax/non_local_softmax_definition.h"

// Legend: N queries, M keys, I inner width (that of a value too).

namespace loci::bench {
namespace {

using torch::Tensor;

constexpr double kMostRivalBytes = 1e9;  // of the tensor that concatenates all pairs

struct PairWork {
  std::string form;
  std::vector<Tensor> inputs;
  std::function<Tensor(const std::vector<Tensor>&)> fast, definition, rival;  // rival: none where it cannot be run
};

// Forward and backward to all inputs.
void add_step(Timing& timing, const std::string& name, const std::vector<Tensor>& inputs,
              const std::function<Tensor(const std::vector<Tensor>&)>& run) {
  const Tensor grad = torch::randn_like(run(inputs).detach());
  timing.add(name, [=] { torch::autograd::grad({run(inputs)}, inputs, {grad}); }, Autograd::on);
}

std::vector<Tensor> drawn(const std::vector<std::vector<int64_t>>& sizes) {
  std::vector<Tensor> tensors;
  for (const auto& size : sizes) tensors.push_back(torch::randn(size).requires_grad_());
  return tensors;
}

PairWork softmax_work(int64_t N, int64_t M, int64_t I) {
  const double scale = 1 / std::sqrt(static_cast<double>(I));
  return {.form = "embedded",
          .inputs = drawn({{1, N, I}, {1, M, I}, {1, M, I}}),
          .fast = [=](const auto& x) { return non_local_softmax(x[0], x[1], x[2], scale); },
          .definition = [=](const auto& x) { return non_local_softmax_definition(x[0], x[1], x[2], scale); },
          .rival =
              [=](const auto& x) {
                return at::scaled_dot_product_attention(x[0].unsqueeze(1), x[1].unsqueeze(1), x[2].unsqueeze(1));
              }};
}

PairWork dot_work(int64_t N, int64_t M, int64_t I) {
  return {.form = "dot",
          .inputs = drawn({{1, N, I}, {1, M, I}, {1, M, I}}),
          .fast = [](const auto& x) { return non_local_dot(x[0], x[1], x[2]); },
          .definition = [](const auto& x) { return non_local_dot_definition(x[0], x[1], x[2]); },
          .rival = {}};
}

// The rival is what other libraries do: a convolution over the concatenation of all pairs of embeddings.
PairWork concat_work(int64_t N, int64_t M, int64_t I) {
  const auto a_of = [](const std::vector<Tensor>& x) { return x[0].squeeze(0).mv(x[3]).unsqueeze(0); };
  const auto b_of = [](const std::vector<Tensor>& x) { return x[1].squeeze(0).mv(x[4]).unsqueeze(0); };
  PairWork work{.form = "concat",
                .inputs = drawn({{1, N, I}, {1, M, I}, {1, M, I}, {I}, {I}}),
                .fast = [=](const auto& x) { return non_local_concat(a_of(x), b_of(x), x[2]); },
                .definition = [=](const auto& x) { return non_local_concat_definition(a_of(x), b_of(x), x[2]); },
                .rival = {}};
  if (8.0 * static_cast<double>(I) * static_cast<double>(N) * static_cast<double>(M) > kMostRivalBytes) return work;
  work.rival = [=](const auto& x) {
    const Tensor theta = x[0].transpose(1, 2).unsqueeze(3).expand({1, I, N, M});
    const Tensor phi = x[1].transpose(1, 2).unsqueeze(2).expand({1, I, N, M});
    const Tensor weight = torch::cat({x[3], x[4]}).view({1, 2 * I, 1, 1});
    return torch::relu(torch::conv2d(torch::cat({theta, phi}, 1), weight)).view({1, N, M}).bmm(x[2]) / M;
  };
  return work;
}

void measure_pairs(int64_t N, int64_t M, int64_t I, const BenchOptions& options, nlohmann::json& report) {
  const double matrix = 4.0 * static_cast<double>(N) * static_cast<double>(M);
  require_free("weights and their gradients", 4 * matrix, fmt::format("{} x {} positions", N, M));
  torch::manual_seed(0);
  const std::array<PairWork, 3> works = {softmax_work(N, M, I), dot_work(N, M, I), concat_work(N, M, I)};
  Timing timing(options.repeats);
  add_machine(timing, 512, int64_t{1} << 26);
  for (const PairWork& work : works) {
    add_step(timing, work.form, work.inputs, work.fast);
    add_step(timing, work.form + " definition", work.inputs, work.definition);
    if (options.stock && work.rival) add_step(timing, work.form + " rival", work.inputs, work.rival);
  }
  timing.run();
  report["machine"] = machine_json(machine_of(timing));
  for (const PairWork& work : works) {
    const std::vector<double> seconds = timing.seconds(work.form);
    const double median = timing.median(work.form), definition = timing.median(work.form + " definition");
    const bool whole =
        work.form == "dot" ? !associates(N, M, I, I) : work.form == "embedded" && keeps_weights(N, M, I, I);
    nlohmann::json row = {{"form", work.form},
                          {"queries", N},
                          {"keys", M},
                          {"inner", I},
                          {"order", whole                   ? "matrix"
                                    : work.form == "dot"    ? "associated"
                                    : work.form == "concat" ? "sorted"
                                                            : "blocks"},
                          {"ms", median * 1e3},
                          {"ms_least", seconds.front() * 1e3},
                          {"ms_most", seconds.back() * 1e3},
                          {"definition_ms", definition * 1e3},
                          {"ratio", definition / median},
                          {"rival_ms", nullptr},
                          {"rival_ratio", nullptr},
                          {"matrix_bytes", matrix}};
    if (timing.has(work.form + " rival")) {
      const double rival = timing.median(work.form + " rival");
      row["rival_ms"] = rival * 1e3;
      row["rival_ratio"] = rival / median;
    }
    report["operators"].push_back(std::move(row));
  }
}

struct BlockSize {
  int64_t frames, edge, channels;
};

// A whole block in training, and what stands between its embeddings and W_z.
void measure_block(const BlockSize& size, PairPool pool, const BenchOptions& options, nlohmann::json& report) {
  torch::manual_seed(0);
  const Tensor x = torch::randn({1, size.channels, size.frames, size.edge, size.edge})
                       .contiguous(at::MemoryFormat::ChannelsLast3d)
                       .requires_grad_();
  Timing timing(options.repeats);
  const std::vector<std::pair<std::string, PairForm>> forms = {
      {"embedded", PairForm::embedded}, {"dot", PairForm::dot}, {"concat", PairForm::concat}};
  for (const auto& [name, form] : forms) {
    NonLocalOptions o;
    o.channels = size.channels;
    o.dimensions = 3;
    o.form = form;
    o.pool = pool;
    const auto block = std::make_shared<NonLocal>("block", o, 0);
    std::vector<Tensor> inputs = block->parameters();
    inputs.push_back(x);
    const Tensor grad = torch::randn_like(x.detach());
    timing.add(name, [=] { torch::autograd::grad({block->forward(x)}, inputs, {grad}); }, Autograd::on);
    const NonLocal::Pairs p = block->pairs(x);
    const bool concat = form == PairForm::concat;
    std::vector<Tensor> pairs = {p.query, p.key, p.value};
    for (Tensor& part : pairs) part = part.detach();
    if (concat) pairs = {pairs[0].squeeze(-1), pairs[1].squeeze(-1), pairs[2]};
    for (Tensor& part : pairs) part.requires_grad_();
    add_step(timing, name + " pairs", pairs, [form = form](const auto& in) {
      if (form == PairForm::dot) return non_local_dot(in[0], in[1], in[2]);
      if (form == PairForm::concat) return non_local_concat(in[0], in[1], in[2]);
      return non_local_softmax(in[0], in[1], in[2], 0.05);
    });
  }
  timing.run();
  for (const auto& [name, form] : forms) {
    const double median = timing.median(name), pairs = timing.median(name + " pairs");
    report["blocks"].push_back({{"form", name},
                                {"map", fmt::format("{0}x{1}x{1}", size.frames, size.edge)},
                                {"channels", size.channels},
                                {"pool", pool == PairPool::none ? "none" : "before"},
                                {"ms", median * 1e3},
                                {"pairs_ms", pairs * 1e3},
                                {"share_of_pairs", pairs / median}});
  }
}

}  // namespace

nlohmann::json run_pairwise(const BenchOptions& options) {
  nlohmann::json report = {
      {"repeats", options.repeats}, {"operators", nlohmann::json::array()}, {"blocks", nlohmann::json::array()}};
  const auto widths = options.widths.empty() ? std::vector<int64_t>{256} : options.widths;
  for (const int64_t N : options.tokens.empty() ? std::vector<int64_t>{49, 196, 784, 3136} : options.tokens) {
    for (const int64_t I : widths) {
      measure_pairs(N, N, I, options, report);
      if (N >= 4) measure_pairs(N, N / 4, I, options, report);
    }
  }
  if (!options.tokens.empty()) return report;
  for (const BlockSize& size : {BlockSize{4, 28, 512}, BlockSize{4, 14, 1024}}) {
    for (const PairPool pool : {PairPool::none, PairPool::before}) measure_block(size, pool, options, report);
  }
  return report;
}

std::string pairwise_table(const nlohmann::json& report) {
  const auto& machine = report["machine"];
  std::string text = fmt::format(
      "Pairwise operators of non-local networks, forward and backward of one sample in float32, beside their\n"
      "definitions; rival: the framework's fused attention for embedded, the concatenation of all pairs for concat.\n"
      "level {}, {} threads; products {:.0f} GFLOP/s; medians of {}\n\n",
      machine["level"].get<std::string>(), machine["threads"].get<int>(),
      machine["product_operations_per_second"].get<double>() / 1e9, report["repeats"].get<int>());
  text += fmt::format("{:<9} {:>13} {:>6} {:>11} {:>9} {:>19} {:>11} {:>7} {:>9} {:>7} {:>10}\n", "form", "positions",
                      "inner", "way", "ms", "least .. most", "definition", "ratio", "rival", "ratio", "N x M, MB");
  for (const auto& r : report["operators"]) {
    text += fmt::format(
        "{:<9} {:>13} {:>6} {:>11} {:>9.3f} {:>19} {:>11.3f} {:>6.2f}x {:>9} {:>7} {:>10.2f}\n",
        r["form"].get<std::string>(), fmt::format("{} x {}", r["queries"].get<int64_t>(), r["keys"].get<int64_t>()),
        r["inner"].get<int64_t>(), r["order"].get<std::string>(), r["ms"].get<double>(),
        fmt::format("{:.3f} .. {:.3f}", r["ms_least"].get<double>(), r["ms_most"].get<double>()),
        r["definition_ms"].get<double>(), r["ratio"].get<double>(), number_or_dash(r["rival_ms"], "{:.3f}"),
        number_or_dash(r["rival_ratio"], "{:.2f}x"), r["matrix_bytes"].get<double>() / 1e6);
  }
  if (report["blocks"].empty()) return text + "\n";
  text += fmt::format(
      "\nWhole blocks in training, channels last; pairs: what stands between the embeddings and W_z\n\n"
      "{:<9} {:>9} {:>9} {:>7} {:>9} {:>9} {:>6}\n",
      "form", "map", "channels", "pool", "ms", "pairs", "share");
  for (const auto& r : report["blocks"]) {
    text += fmt::format("{:<9} {:>9} {:>9} {:>7} {:>9.1f} {:>9.1f} {:>5.0f}%\n", r["form"].get<std::string>(),
                        r["map"].get<std::string>(), r["channels"].get<int64_t>(), r["pool"].get<std::string>(),
                        r["ms"].get<double>(), r["pairs_ms"].get<double>(), r["share_of_pairs"].get<double>() * 100);
  }
  return text + "\n";
}

}  // namespace loci::bench
