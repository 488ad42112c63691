#include "bench/network.h"

#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "bench/exchange.h"
#include "loci/base/check.h"
#include "loci/distributed/exchange_plan.h"
#include "loci/distributed/process_group.h"
#include "loci/distributed/row_exchange.h"
#include "loci/train/text_table.h"

namespace loci::bench {
namespace {

using at::Tensor;

constexpr std::string_view kNetworkWho = "bench network";
constexpr std::chrono::seconds kPatience{60};
constexpr int64_t kCallsAtOnce = 20, kWarmUpCalls = 3;
constexpr int64_t kMessageBytes[] = {16, 1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 20, 1 << 22};  // to each rank
constexpr int64_t kNetworkTokens = 1024, kNetworkRows = int64_t{1} << 20;
constexpr int64_t kNetworkWidths[] = {128, 1024};

// Seconds of a call at the slowest rank: the median of the repeats.
double seconds_of(const Ranks& ranks, int repeats, const std::function<void()>& call) {
  for (int64_t i = 0; i < kWarmUpCalls; ++i) call();
  std::vector<double> seconds;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < kCallsAtOnce; ++i) call();
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    const Tensor here = at::scalar_tensor(passed.count() / kCallsAtOnce, at::kDouble).view({1});
    seconds.push_back(all_gather(ranks, here).max().item<double>());
  }
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

std::vector<CollectiveTime> time_collectives(const Ranks& ranks, int repeats) {
  std::vector<CollectiveTime> times;
  for (const int64_t bytes : kMessageBytes) {
    const Tensor sent = at::zeros({ranks.size * bytes}, at::kByte);
    const std::vector<int64_t> each(static_cast<size_t>(ranks.size), bytes);
    const double seconds = seconds_of(ranks, repeats, [&] { all_to_all(ranks, sent, each, each); });
    times.push_back({static_cast<double>(bytes * (ranks.size - 1)), seconds});
  }
  return times;
}

double model_seconds(const Network& network, const ExchangeCounts& counts, const ExchangeSizes& sizes) {
  double seconds = 0;
  for (int64_t m = 0; m < kExchangeMessages; ++m) {
    int64_t most = 0;
    for (const RankBytes& rank : bytes_of_ranks(static_cast<ExchangeMessage>(m), counts, sizes)) {
      most = std::max({most, rank.sent, rank.received});
    }
    seconds += collective_seconds(network, counts.ranks, static_cast<double>(most));
  }
  return seconds;
}

int64_t bytes_sent(int64_t rank, const ExchangeCounts& counts, const ExchangeSizes& sizes) {
  int64_t sent = 0;
  for (int64_t m = 0; m < kExchangeMessages; ++m) {
    sent += bytes_of_ranks(static_cast<ExchangeMessage>(m), counts, sizes)[static_cast<size_t>(rank)].sent;
  }
  return sent;
}

nlohmann::json time_exchange(const Ranks& ranks, const BenchOptions& options, int64_t rows, int64_t tokens,
                             int64_t width, const Network& network) {
  const ZipfRows source(rows, options.exchange.skew);
  const std::vector<int64_t> first = equal_parts(source.rows(), ranks.size);
  const Tensor index = at::tensor(reads_of_rank(source, options.exchange, ranks.rank, tokens), at::kLong)
                           .view({tokens, options.exchange.reads});
  const Tensor weight = at::zeros(index.sizes()), grad = at::zeros({tokens, width});
  const double seconds = seconds_of(ranks, options.repeats, [&] {
    const RowExchange exchange(ranks, first, index, weight);
    exchange.return_sums(at::zeros({exchange.index().size(0), width}));
    exchange.send_tokens(grad);
    exchange.return_reads(exchange.came_along());
  });
  const ExchangeCounts counts = draw_exchange(source, options.exchange, ranks.size, tokens).counts;
  const ExchangeSizes sizes{.width = width};
  return {{"rows", rows},
          {"tokens", tokens},
          {"reads", options.exchange.reads},
          {"width", width},
          {"bytes", bytes_sent(0, counts, sizes)},
          {"ms", seconds * 1e3},
          {"model_ms", model_seconds(network, counts, sizes) * 1e3}};
}

}  // namespace

// seconds = a + b bytes, in the sense that the sum of ((a + b bytes) / seconds - 1)^2 is least.
Network fit_network(int64_t ranks, std::span<const CollectiveTime> times) {
  double aa = 0, ab = 0, bb = 0, a1 = 0, b1 = 0;
  for (const CollectiveTime& time : times) {
    const double a = 1 / time.seconds, b = time.bytes / time.seconds;
    aa += a * a;
    ab += a * b;
    bb += b * b;
    a1 += a;
    b1 += b;
  }
  const double determinant = aa * bb - ab * ab;
  TORCH_CHECK(ranks > 1 && determinant > 0, "fit_network: times must be of two ranks and two sizes or more, got ",
              ranks, " ranks and ", times.size(), " times");
  const double start = (a1 * bb - b1 * ab) / determinant, byte = (aa * b1 - ab * a1) / determinant;
  return {"fitted", start / static_cast<double>(ranks - 1), 1 / byte};
}

nlohmann::json measure_network(const Ranks& ranks, const BenchOptions& options) {
  const std::vector<CollectiveTime> times = time_collectives(ranks, options.repeats);
  const Network network = fit_network(ranks.size, times);
  nlohmann::json report = {
      {"ranks", ranks.size},
      {"repeats", options.repeats},
      {"network", {{"latency_us", network.latency * 1e6}, {"gigabits_per_second", network.bandwidth * 8 / 1e9}}},
      {"collectives", nlohmann::json::array()},
      {"exchanges", nlohmann::json::array()}};
  for (const CollectiveTime& time : times) {
    report["collectives"].push_back({{"bytes", time.bytes},
                                     {"us", time.seconds * 1e6},
                                     {"model_us", collective_seconds(network, ranks.size, time.bytes) * 1e6}});
  }
  std::vector<int64_t> rows = options.rows, widths = options.widths, tokens = options.tokens;
  if (rows.empty()) rows = {kNetworkRows};
  if (widths.empty()) widths.assign(std::begin(kNetworkWidths), std::end(kNetworkWidths));
  if (tokens.empty()) tokens = {kNetworkTokens};
  for (const int64_t N : rows) {
    for (const int64_t T : tokens) {
      for (const int64_t D : widths) report["exchanges"].push_back(time_exchange(ranks, options, N, T, D, network));
    }
  }
  return report;
}

nlohmann::json run_network(const BenchOptions& options) {
  if (!has_rank()) {
    fail(ExitCode::usage, kNetworkWho, "must be started by torchrun (docs/scaling.md)", "one process");
  }
  for (const int64_t rows : options.rows) check_reads(kNetworkWho, options.exchange, rows);
  if (options.rows.empty()) check_reads(kNetworkWho, options.exchange, kNetworkRows);
  const ProcessGroup group(kPatience);
  const Ranks& ranks = group.ranks();
  if (ranks.size < 2) fail(ExitCode::usage, kNetworkWho, "ranks must be at least 2", "1");
  const nlohmann::json report = measure_network(ranks, options);
  return ranks.rank == 0 ? report : nlohmann::json();
}

std::string network_text(const nlohmann::json& report) {
  const auto& network = report["network"];
  TextTable collectives({"bytes to the others", "us", "model us"});
  for (const auto& c : report["collectives"]) {
    collectives.add({fmt::format("{:.0f}", c["bytes"].get<double>()), number_or_dash(c["us"], "{:.0f}"),
                     number_or_dash(c["model_us"], "{:.0f}")});
  }
  TextTable exchanges({"rows", "tokens", "reads", "width", "bytes of rank 0", "ms", "model ms"});
  for (const auto& e : report["exchanges"]) {
    exchanges.add({fmt::to_string(e["rows"].get<int64_t>()), fmt::to_string(e["tokens"].get<int64_t>()),
                   fmt::to_string(e["reads"].get<int64_t>()), fmt::to_string(e["width"].get<int64_t>()),
                   fmt::to_string(e["bytes"].get<int64_t>()), number_or_dash(e["ms"], "{:.2f}"),
                   number_or_dash(e["model_ms"], "{:.2f}")});
  }
  return fmt::format(
             "{} ranks; a message takes {:.0f} us, a rank {:.1f} Gb/s: fitted to the first table; median of {} "
             "repeats\n\nall_to_all\n",
             report["ranks"].get<int64_t>(), network["latency_us"].get<double>(),
             network["gigabits_per_second"].get<double>(), report["repeats"].get<int>()) +
         collectives.text() + "\nAn exchange forward and backward, with its plan, without rows\n" + exchanges.text();
}

}  // namespace loci::bench
