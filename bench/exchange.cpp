#include "bench/exchange.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <span>

#include "bench/case_size.h"
#include "bench/timing.h"
#include "loci/base/check.h"
#include "loci/distributed/exchange_plan.h"
#include "loci/train/text_table.h"

namespace loci::bench {
namespace {

constexpr int64_t kRankTokens = 1024, kTableRows = int64_t{1} << 20, kTableWidth = 1024;
constexpr int64_t kMostRanks = 4096;
constexpr double kMostReads = 1e10;  // of all ranks: minutes
constexpr int64_t kValueBytesRead = 4;

// The sorted reads without repeats.
std::vector<int64_t> distinct_of(std::span<const int64_t> index) {
  std::vector<int64_t> rows(index.begin(), index.end());
  std::ranges::sort(rows);
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

// A bit for each row of the table, set by several threads.
class RowBits {
 public:
  explicit RowBits(int64_t rows) : words_(static_cast<size_t>(rows + 63) / 64) {}
  void set(int64_t row) {
    const std::atomic_ref word(words_[static_cast<size_t>(row / 64)]);
    const uint64_t bit = uint64_t{1} << (row % 64);
    if ((word.load(std::memory_order_relaxed) & bit) == 0) word.fetch_or(bit, std::memory_order_relaxed);
  }
  bool has(int64_t row) const { return (words_[static_cast<size_t>(row / 64)] >> (row % 64) & 1) != 0; }

 private:
  std::vector<uint64_t> words_;
};

struct RankRepeats {
  int64_t in_token = 0, in_rank = 0;
};

RankRepeats add_rank(const std::vector<int64_t>& index, int64_t rank, int64_t reads, std::span<const int64_t> first,
                     ExchangeCounts& counts, RowBits& touched) {
  const ExchangePlan plan = plan_exchange(index, reads, first);
  std::ranges::copy(plan.reads_to, counts.reads.begin() + rank * counts.ranks);
  std::ranges::copy(plan.segments_to, counts.segments.begin() + rank * counts.ranks);
  RankRepeats repeats;
  const std::span<const int64_t> all = index;
  for (size_t begin = 0; begin < all.size(); begin += static_cast<size_t>(reads)) {
    repeats.in_token += reads - std::ssize(distinct_of(all.subspan(begin, static_cast<size_t>(reads))));
  }
  const std::vector<int64_t> rows = distinct_of(all);
  for (const int64_t row : rows) touched.set(row);
  repeats.in_rank = std::ssize(index) - std::ssize(rows);
  return repeats;
}

// The largest over the mean; null without any.
nlohmann::json imbalance_of(const std::vector<int64_t>& of_ranks) {
  const double sum = std::accumulate(of_ranks.begin(), of_ranks.end(), 0.0);
  if (sum == 0) return nullptr;
  return static_cast<double>(std::ranges::max(of_ranks)) * static_cast<double>(of_ranks.size()) / sum;
}

std::vector<int64_t> at_owners(const ExchangeCounts& counts, const std::vector<int64_t>& of_pairs) {
  std::vector<int64_t> sums(static_cast<size_t>(counts.ranks), 0);
  for (size_t i = 0; i < of_pairs.size(); ++i) sums[i % sums.size()] += of_pairs[i];
  return sums;
}

std::vector<Network> networks_of(const ExchangeOptions& options) {
  if (options.bandwidth > 0) return {{"given", options.latency * 1e-6, options.bandwidth * 1e9 / 8}};
  const std::span<const Network> named = named_networks();
  return {named.begin(), named.end()};
}

using BytesOf = std::function<std::vector<RankBytes>(ExchangeMessage message)>;  // [P]; empty: no such message

// Bytes by message, their imbalance, and times by network.
void add_bytes(nlohmann::json& result, const BytesOf& bytes_of, int64_t P, int64_t tokens,
               const std::vector<Network>& networks) {
  std::vector<int64_t> of_ranks(static_cast<size_t>(P), 0);
  std::vector<double> seconds(networks.size(), 0);
  double forward = 0, total = 0;
  nlohmann::json by_message = nlohmann::json::object();
  for (int64_t m = 0; m < kExchangeMessages; ++m) {
    const auto message = static_cast<ExchangeMessage>(m);
    const std::vector<RankBytes> bytes = bytes_of(message);
    double sent = 0;
    int64_t most = 0;
    for (size_t rank = 0; rank < bytes.size(); ++rank) {
      sent += static_cast<double>(bytes[rank].sent);
      most = std::max({most, bytes[rank].sent, bytes[rank].received});
      of_ranks[rank] += bytes[rank].sent + bytes[rank].received;
    }
    for (size_t n = 0; n < networks.size() && !bytes.empty(); ++n) {
      seconds[n] += collective_seconds(networks[n], P, static_cast<double>(most));
    }
    by_message[name_of(message)] = sent / count({P, tokens});
    total += sent;
    if (message <= kLastForward) forward += sent;
  }
  result["bytes_a_token"] = by_message;
  result["bytes_a_token"].update({{"forward", forward / count({P, tokens})},
                                  {"backward", (total - forward) / count({P, tokens})},
                                  {"total", total / count({P, tokens})}});
  result["imbalance"]["bytes"] = imbalance_of(of_ranks);
  result["times"] = nlohmann::json::array();
  for (size_t n = 0; n < networks.size(); ++n) {
    const double bound = total / static_cast<double>(P) / networks[n].bandwidth;
    result["times"].push_back({{"network", networks[n].name},
                               {"exchange_ms", seconds[n] * 1e3},
                               {"bound_ms", bound * 1e3},
                               {"ratio", P == 1 ? nlohmann::json() : nlohmann::json(seconds[n] / bound)}});
  }
}

TableParts parts_of(const ExchangeOptions& options, int64_t ranks, const TableReads& table) {
  if (options.shard == "auto") return cheaper_parts(ranks, table);
  return options.shard == "rows" ? TableParts::rows : TableParts::columns;
}

// What only parts by rows have: their owners are not read alike.
void add_rows(nlohmann::json& result, const ExchangeDraw& draw, const ExchangeOptions& options, int64_t tokens,
              int64_t width) {
  const std::vector<int64_t> reads = at_owners(draw.counts, draw.counts.reads);
  double most = 0;
  for (size_t p = 0; p < reads.size(); ++p) {
    most = std::max(most, memory_bytes(reads[p], draw.distinct[p], width, kValueBytesRead));
  }
  const auto segments =
      static_cast<double>(std::accumulate(draw.counts.segments.begin(), draw.counts.segments.end(), int64_t{0}));
  result["segments_a_token"] = segments / count({draw.counts.ranks, tokens});
  result["imbalance"] = {{"reads", imbalance_of(reads)},
                         {"segments", imbalance_of(at_owners(draw.counts, draw.counts.segments))}};
  result["memory_ms"] = most / (options.memory_bandwidth * 1e9) * 1e3;
}

// Every rank has its columns of all reads.
void add_columns(nlohmann::json& result, const ExchangeDraw& draw, const ExchangeOptions& options, int64_t tokens,
                 int64_t width) {
  const int64_t ranks = draw.counts.ranks;
  const int64_t distinct = std::accumulate(draw.distinct.begin(), draw.distinct.end(), int64_t{0});
  const double most =
      memory_bytes(ranks * tokens * options.reads, distinct, (width + ranks - 1) / ranks, kValueBytesRead);
  result["segments_a_token"] = nullptr;
  result["imbalance"] = {{"reads", 1}, {"segments", nullptr}};
  result["memory_ms"] = most / (options.memory_bandwidth * 1e9) * 1e3;
}

nlohmann::json result_at(const RowSource& source, const ExchangeOptions& options, int64_t ranks, int64_t tokens,
                         int64_t width) {
  const ExchangeDraw draw = draw_exchange(source, options, ranks, tokens);
  const TableReads table = {.reads = options.reads, .rows = source.rows(), .width = width};
  const TableParts parts = parts_of(options, ranks, table);
  const double M = count({ranks, tokens, options.reads});
  nlohmann::json result = {{"ranks", ranks},
                           {"shard", name_of(parts)},
                           {"duplicates_in_token", static_cast<double>(draw.token_repeats) / M},
                           {"duplicates_in_rank", static_cast<double>(draw.rank_repeats) / M},
                           {"expected_rows", expected_bytes(TableParts::rows, ranks, table).both()},
                           {"expected_columns", expected_bytes(TableParts::columns, ranks, table).both()},
                           {"auto", name_of(cheaper_parts(ranks, table))}};
  const bool by_rows = parts == TableParts::rows;
  (by_rows ? add_rows : add_columns)(result, draw, options, tokens, width);
  const ExchangeSizes sizes = sizes_of(parts, ranks, table);
  const std::vector<int64_t> of_ranks(static_cast<size_t>(ranks), tokens);
  const BytesOf bytes_of = [&](ExchangeMessage message) {
    if (by_rows) return bytes_of_ranks(message, draw.counts, sizes);
    if (message == ExchangeMessage::lengths) return std::vector<RankBytes>();
    return bytes_of_ranks(message, of_ranks, options.reads, sizes);
  };
  add_bytes(result, bytes_of, ranks, tokens, networks_of(options));
  return result;
}

int64_t only(const char* what, const std::vector<int64_t>& values, int64_t otherwise) {
  if (values.size() > 1) {
    fail(ExitCode::usage, "bench exchange", fmt::format("--{} must be one number", what),
         fmt::format("{} of them", values.size()));
  }
  return values.empty() ? otherwise : values.front();
}

constexpr std::string_view kWho = "bench exchange";

void check_exchange(const ExchangeOptions& options, int64_t rows, int64_t tokens) {
  const auto need = [](bool is, const std::string& expected, const auto& got) {
    if (!is) fail(ExitCode::usage, kWho, expected, fmt::to_string(got));
  };
  check_reads(kWho, options, rows);
  need(options.shard == "rows" || options.shard == "columns" || options.shard == "auto",
       "--shard must be rows, columns or auto", options.shard);
  need(options.latency == 0 || options.bandwidth > 0, "--latency must come with --bandwidth", options.latency);
  need(options.memory_bandwidth > 0, "--memory-bandwidth must be above 0", options.memory_bandwidth);
  for (const int64_t ranks : options.ranks) {
    need(ranks >= 1 && ranks <= kMostRanks, fmt::format("--ranks must be from 1 to {}", kMostRanks), ranks);
    need(count({ranks, tokens, options.reads}) <= kMostReads,
         fmt::format("the reads of all ranks must be at most {:.0e}", kMostReads),
         count({ranks, tokens, options.reads}));
  }
}

std::unique_ptr<RowSource> source_of(const BenchOptions& options) {
  if (options.exchange.counts.empty()) {
    return std::make_unique<ZipfRows>(only("rows", options.rows, kTableRows), options.exchange.skew);
  }
  if (!options.rows.empty()) {
    fail(ExitCode::usage, "bench exchange", "--counts must come without --rows, for it has the rows of its table",
         fmt::to_string(options.rows.front()));
  }
  return std::make_unique<CountedRows>(counted_reads(options.exchange.counts, options.exchange.table));
}

std::string bytes_table(const nlohmann::json& report) {
  std::vector<std::string> header = {"ranks"};
  for (int64_t m = 0; m < kExchangeMessages; ++m) header.emplace_back(name_of(static_cast<ExchangeMessage>(m)));
  header.insert(header.end(), {"forward", "total", "rows expected", "columns expected", "auto"});
  TextTable table(header);
  for (const auto& r : report["results"]) {
    std::vector<std::string> line = {fmt::to_string(r["ranks"].get<int64_t>())};
    for (size_t c = 1; c <= kExchangeMessages + 2; ++c) {
      line.push_back(number_or_dash(r["bytes_a_token"][header[c]], "{:.1f}"));
    }
    line.insert(line.end(), {number_or_dash(r["expected_rows"], "{:.0f}"),
                             number_or_dash(r["expected_columns"], "{:.0f}"), r["auto"].get<std::string>()});
    table.add(line);
  }
  return table.text();
}

std::string shares_table(const nlohmann::json& report) {
  TextTable table({"ranks", "in token", "in rank", "segments a token", "reads", "segments", "bytes", "memory ms"});
  for (const auto& r : report["results"]) {
    const auto& imbalance = r["imbalance"];
    table.add({fmt::to_string(r["ranks"].get<int64_t>()),
               fmt::format("{:.1f}%", r["duplicates_in_token"].get<double>() * 100),
               fmt::format("{:.1f}%", r["duplicates_in_rank"].get<double>() * 100),
               number_or_dash(r["segments_a_token"], "{:.2f}"), number_or_dash(imbalance["reads"], "{:.3f}"),
               number_or_dash(imbalance["segments"], "{:.3f}"), number_or_dash(imbalance["bytes"], "{:.3f}"),
               number_or_dash(r["memory_ms"], "{:.2f}")});
  }
  return table.text();
}

std::string times_table(const nlohmann::json& report) {
  TextTable table({"network", "ranks", "exchange ms", "bytes alone ms", "ratio"});
  for (size_t n = 0; n < report["networks"].size(); ++n) {
    for (const auto& r : report["results"]) {
      const auto& time = r["times"][n];
      table.add({time["network"].get<std::string>(), fmt::to_string(r["ranks"].get<int64_t>()),
                 number_or_dash(time["exchange_ms"], "{:.2f}"), number_or_dash(time["bound_ms"], "{:.2f}"),
                 number_or_dash(time["ratio"], "{:.2f}")});
    }
  }
  return table.text();
}

}  // namespace

void check_reads(std::string_view who, const ExchangeOptions& options, int64_t rows) {
  if (options.heads < 1 || options.reads < 1 || options.reads % options.heads != 0) {
    fail(ExitCode::usage, who, fmt::format("--reads must be a multiple of --heads, {}", options.heads),
         fmt::to_string(options.reads));
  }
  if (options.reads / options.heads > rows) {
    fail(ExitCode::usage, who, fmt::format("the reads of a head must be at most the {} rows of the table", rows),
         fmt::to_string(options.reads / options.heads));
  }
}

std::vector<int64_t> reads_of_rank(const RowSource& source, const ExchangeOptions& options, int64_t rank,
                                   int64_t tokens) {
  RandomSequence random(CounterRandom(/*seed=*/0, static_cast<uint64_t>(rank)));
  std::vector<int64_t> index(static_cast<size_t>(tokens * options.reads));
  const std::span<int64_t> all = index;
  for (int64_t t = 0; t < tokens; ++t) {
    draw_token(source, options.heads, random,
               all.subspan(static_cast<size_t>(t * options.reads), static_cast<size_t>(options.reads)));
  }
  return index;
}

ExchangeDraw draw_exchange(const RowSource& source, const ExchangeOptions& options, int64_t ranks, int64_t tokens) {
  const std::vector<int64_t> first = equal_parts(source.rows(), ranks);
  ExchangeDraw draw{ExchangeCounts(ranks), std::vector<int64_t>(static_cast<size_t>(ranks), 0)};
  RowBits touched(source.rows());
  std::vector<RankRepeats> repeats(static_cast<size_t>(ranks));
  at::parallel_for(0, ranks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t rank = begin; rank < end; ++rank) {
      repeats[static_cast<size_t>(rank)] =
          add_rank(reads_of_rank(source, options, rank, tokens), rank, options.reads, first, draw.counts, touched);
    }
  });
  for (const RankRepeats& of_rank : repeats) {
    draw.token_repeats += of_rank.in_token;
    draw.rank_repeats += of_rank.in_rank;
  }
  for (size_t p = 0; p < draw.distinct.size(); ++p) {
    for (int64_t row = first[p]; row < first[p + 1]; ++row) draw.distinct[p] += touched.has(row) ? 1 : 0;
  }
  return draw;
}

nlohmann::json run_exchange(const BenchOptions& options) {
  const ExchangeOptions& exchange = options.exchange;
  const int64_t tokens = only("tokens", options.tokens, kRankTokens),
                width = only("width", options.widths, kTableWidth);
  if (exchange.counts.empty()) check_exchange(exchange, only("rows", options.rows, kTableRows), tokens);
  require_free("the draws", count({only("rows", options.rows, 0)}) / 8 + count({tokens, exchange.reads, 64}),
               fmt::format("{} tokens", tokens));
  const std::unique_ptr<RowSource> source = source_of(options);
  check_exchange(exchange, source->rows(), tokens);
  nlohmann::json report = {
      {"tokens", tokens},
      {"reads", exchange.reads},
      {"heads", exchange.heads},
      {"rows", source->rows()},
      {"width", width},
      {"shard", exchange.shard},
      {"skew", exchange.counts.empty() ? nlohmann::json(exchange.skew) : nlohmann::json()},
      {"counts", exchange.counts.empty() ? nlohmann::json() : nlohmann::json(printable(exchange.counts))},
      {"memory_gb_per_second", exchange.memory_bandwidth},
      {"networks", nlohmann::json::array()},
      {"results", nlohmann::json::array()}};
  for (const Network& network : networks_of(exchange)) {
    report["networks"].push_back({{"network", network.name},
                                  {"latency_us", network.latency * 1e6},
                                  {"gigabits_per_second", network.bandwidth * 8 / 1e9}});
  }
  for (const int64_t ranks : exchange.ranks) {
    report["results"].push_back(result_at(*source, exchange, ranks, tokens, width));
  }
  return report;
}

std::string exchange_text(const nlohmann::json& report) {
  const std::string source = report["counts"].is_null()
                                 ? fmt::format("by Zipf's law of {}", report["skew"].get<double>())
                                 : "as counted in " + report["counts"].get<std::string>();
  const std::string head = wrapped(
      fmt::format(
          "A step's exchange, simulated: {} tokens a rank, {} reads in {} heads, {} rows of {} float32, read {}, in "
          "parts by {}. "
          "Bytes and shares are counted, times are a model's (docs/scaling.md).",
          report["tokens"].get<int64_t>(), report["reads"].get<int64_t>(), report["heads"].get<int64_t>(),
          report["rows"].get<int64_t>(), report["width"].get<int64_t>(), source, report["shard"].get<std::string>()),
      0);
  return head + "\nBytes that a token sends, beside those expected of even reads\n" + bytes_table(report) +
         "\nReads of a row that the token or its rank reads already; the largest rank over the mean\n" +
         shares_table(report) + "\nThe model's times, beside the mean rank's bytes over the bandwidth\n" +
         times_table(report);
}

}  // namespace loci::bench
