// Legend: T tokens of a rank, K reads of a token, N rows, D width, P ranks.
#include "bench/exchange.h"

#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "loci/base/check.h"
#include "loci/distributed/exchange_plan.h"
#include "loci/table/usage.h"
#include "loci/train/table_checkpoint.h"
#include "tests/ranks.h"
#include "tests/sharded_rows.h"
#include "tests/temporary_folder.h"

namespace loci::bench {
namespace {

using at::Tensor;
using testing::HasSubstr;

// What this thread hands to all_to_all_single and all_gather_into_tensor, without what it sends to itself.
class Handed {
 public:
  explicit Handed(int64_t rank) {
    rank_ = rank;
    all_.clear();
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&note).needsInputs(true));
  }
  ~Handed() { at::removeCallback(handle_); }
  const std::vector<RankBytes>& all() const { return all_; }

 private:
  static std::unique_ptr<at::ObserverContext> note(const at::RecordFunction& function) {
    const std::string name = function.name();
    const bool gathered = name == "_c10d_functional::all_gather_into_tensor";
    if (!gathered && name != "_c10d_functional::all_to_all_single") return nullptr;
    const auto inputs = function.inputs();
    const Tensor& input = inputs[0].toTensor();
    if (gathered) {
      const int64_t others = static_cast<int64_t>(input.nbytes()) * (inputs[1].toInt() - 1);
      all_.push_back({others, others});
      return nullptr;
    }
    int64_t row = input.element_size();
    for (int64_t d = 1; d < input.dim(); ++d) row *= input.size(d);
    const auto bytes = [&](const c10::IValue& splits) {
      const std::vector<int64_t> rows = splits.toIntVector();
      int64_t sum = 0;
      for (size_t p = 0; p < rows.size(); ++p) sum += static_cast<int64_t>(p) == rank_ ? 0 : rows[p] * row;
      return sum;
    };
    all_.push_back({bytes(inputs[2]), bytes(inputs[1])});
    return nullptr;
  }

  static thread_local int64_t rank_;
  static thread_local std::vector<RankBytes> all_;
  at::CallbackHandle handle_;
};
thread_local int64_t Handed::rank_ = 0;
thread_local std::vector<RankBytes> Handed::all_;

RankBytes sum_of(const std::vector<RankBytes>& all) {
  RankBytes sum;
  for (const RankBytes& bytes : all) sum = {sum.sent + bytes.sent, sum.received + bytes.received};
  return sum;
}

TEST(Exchange, BytesAreThoseThatRanksHandToTheCollectives) {
  constexpr int64_t T = 9, N = 31, D = 5;
  const ExchangeOptions options{.reads = 6, .heads = 2};
  const ZipfRows source(N, 1);
  for (const int64_t P : {2, 3}) {
    for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
      const ExchangeDraw draw = draw_exchange(source, options, P, T);
      const ExchangeSizes sizes{D, 4, dtype == at::kDouble ? 8 : 4};
      run_ranks(P, [&](const Ranks& ranks) {
        const auto table = make_sharded(ranks, N, D, dtype);
        const int64_t use = table->register_use();
        const Tensor index = torch::tensor(reads_of_rank(source, options, ranks.rank, T)).view({T, options.reads});
        const auto real = torch::dtype(table->sum_dtype());
        const Tensor weight = torch::ones({T, options.reads}, real).requires_grad_();
        const Tensor x = torch::ones({T, D}, real).requires_grad_();
        RankBytes read;
        {
          const Handed handed(ranks.rank);
          table->read(index, weight, use).sum().backward();
          ASSERT_EQ(std::ssize(handed.all()), kExchangeMessages);
          for (size_t m = 0; m < handed.all().size(); ++m) {
            const auto message = static_cast<ExchangeMessage>(m);
            const RankBytes expected = bytes_of_ranks(message, draw.counts, sizes)[static_cast<size_t>(ranks.rank)];
            EXPECT_EQ(handed.all()[m].sent, expected.sent) << P << " " << dtype << " " << name_of(message);
            EXPECT_EQ(handed.all()[m].received, expected.received) << P << " " << dtype << " " << name_of(message);
          }
          read = sum_of(handed.all());
        }
        const Handed handed(ranks.rank);
        table->project(index, x, use).sum().backward();
        EXPECT_EQ(sum_of(handed.all()).sent, read.sent);
        EXPECT_EQ(sum_of(handed.all()).received, read.received);
      });
    }
  }
}

TEST(Exchange, BytesByColumnsAreThoseThatRanksHandToTheCollectives) {
  constexpr int64_t N = 31, D = 7, K = 6;
  for (const int64_t P : {2, 3}) {
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      const ExchangeSizes sizes{D, 4, dtype == at::kDouble ? 8 : 4};
      std::vector<int64_t> tokens;
      for (int64_t p = 0; p < P; ++p) tokens.push_back(9 - 2 * p);
      run_ranks(P, [&](const Ranks& ranks) {
        const auto rank = static_cast<size_t>(ranks.rank);
        const auto table = make_sharded(ranks, N, D, dtype, TableParts::columns);
        const int64_t use = table->register_use();
        const Tensor index = torch::randint(N, {tokens[rank], K}, at::kLong);
        const auto real = torch::dtype(table->sum_dtype());
        std::vector<RankBytes> expected;  // message by message
        for (int64_t m = 0; m < kExchangeMessages; ++m) {
          const auto message = static_cast<ExchangeMessage>(m);
          if (message == ExchangeMessage::lengths) continue;
          expected.push_back(bytes_of_ranks(message, tokens, K, sizes)[rank]);
        }
        RankBytes read;
        {
          const Tensor weight = torch::ones({tokens[rank], K}, real).requires_grad_();
          const Handed handed(ranks.rank);
          table->read(index, weight, use).sum().backward();
          ASSERT_EQ(handed.all().size(), expected.size());
          for (size_t m = 0; m < expected.size(); ++m) {
            EXPECT_EQ(handed.all()[m].sent, expected[m].sent) << P << " " << dtype << " " << m;
            EXPECT_EQ(handed.all()[m].received, expected[m].received) << P << " " << dtype << " " << m;
          }
          read = sum_of(handed.all());
        }
        const Tensor x = torch::ones({tokens[rank], D}, real).requires_grad_();
        const Handed handed(ranks.rank);
        table->project(index, x, use).sum().backward();
        EXPECT_EQ(sum_of(handed.all()).sent, read.sent);
        EXPECT_EQ(sum_of(handed.all()).received, read.received);
      });
    }
  }
}

TEST(Exchange, PopularityFollowsZipfsLaw) {
  constexpr int64_t N = 50, kDraws = 100'000;
  const CounterPermutation permutation(N, 1, 0);
  for (const double skew : {0.0, 0.7, 1.0, 1.6}) {
    const ZipfRows source(N, skew);
    RandomSequence random(CounterRandom(5, uint64_t{0}));
    std::vector<double> drawn(N, 0);
    for (int64_t i = 0; i < kDraws; ++i) drawn.at(static_cast<size_t>(source.draw(random))) += 1;
    double sum = 0;
    for (int64_t r = 1; r <= N; ++r) sum += std::pow(r, -skew);
    for (int64_t r = 1; r <= N; ++r) {
      const double expected = kDraws * std::pow(r, -skew) / sum;
      const auto row = skew == 0 ? static_cast<size_t>(r - 1) : permutation(static_cast<uint64_t>(r - 1));
      EXPECT_NEAR(drawn[row], expected, 5 * std::sqrt(expected)) << skew << " " << r;
    }
  }
}

TEST(Exchange, RowsBeyondTheRememberedOnesAreRowsOfTheTable) {
  const int64_t N = (int64_t{1} << 21) + 3;
  const ZipfRows source(N, 0.3);
  RandomSequence random(CounterRandom(5, uint64_t{0}));
  for (int i = 0; i < 1000; ++i) {
    const int64_t row = source.draw(random);
    EXPECT_TRUE(row >= 0 && row < N) << row;
  }
}

TEST(Exchange, AHeadReadsARowOnce) {
  const CountedRows source({0, 1'000'000, 1, 0, 2});
  RandomSequence random(CounterRandom(0, uint64_t{0}));
  std::map<int64_t, int> first;
  for (int i = 0; i < 100; ++i) {
    std::vector<int64_t> index(8);
    draw_token(source, 2, random, index);
    for (const auto begin : {index.begin(), index.begin() + 4}) {
      EXPECT_EQ(std::set<int64_t>(begin, begin + 4).size(), 4);
      ++first[*begin];
    }
  }
  EXPECT_EQ(first[1], 200);
}

TEST(Exchange, CountsAreThoseOfAllTokensForAnyNumberOfThreads) {
  constexpr int64_t P = 5, T = 7, N = 23;
  const ExchangeOptions options{.reads = 6, .heads = 3};
  const ZipfRows source(N, 1);
  const std::vector<int64_t> first = equal_parts(N, P);
  std::vector<std::set<int64_t>> at_rank(P);
  int64_t in_token = 0, in_rank = 0;
  ExchangeCounts counts(P);
  for (int64_t rank = 0; rank < P; ++rank) {
    const std::vector<int64_t> index = reads_of_rank(source, options, rank, T);
    std::set<int64_t> rows;
    std::set<std::pair<int64_t, int64_t>> of_tokens, segments;
    for (int64_t i = 0; i < T * options.reads; ++i) {
      const int64_t row = index[static_cast<size_t>(i)], token = i / options.reads;
      const int64_t owner = std::ranges::upper_bound(first, row) - first.begin() - 1;
      in_rank += rows.insert(row).second ? 0 : 1;
      in_token += of_tokens.insert({token, row}).second ? 0 : 1;
      at_rank[static_cast<size_t>(owner)].insert(row);
      ++counts.reads[counts.at(rank, owner)];
      counts.segments[counts.at(rank, owner)] += segments.insert({token, owner}).second ? 1 : 0;
    }
  }
  EXPECT_GT(in_token, 0);
  const int before = at::get_num_threads();
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    const ExchangeDraw draw = draw_exchange(source, options, P, T);
    EXPECT_EQ(draw.token_repeats, in_token);
    EXPECT_EQ(draw.rank_repeats, in_rank);
    EXPECT_EQ(draw.counts.reads, counts.reads);
    EXPECT_EQ(draw.counts.segments, counts.segments);
    for (size_t p = 0; p < P; ++p) EXPECT_EQ(draw.distinct[p], std::ssize(at_rank[p])) << p;
  }
  at::set_num_threads(before);
}

// A checkpoint with a table "m", whose reads are counted, a delta of it, and a table without counters.
struct CountedRun {
  static constexpr int64_t kCounted = 4096, kWide = 64;  // 1 MiB: less has no deltas
  TemporaryFolder folder;
  Tensor counters = at::zeros({kCounted, 3}, at::kInt), others = counters.clone();

  CountedRun() {
    const auto table = std::make_shared<LocalTable>("m", kCounted, kWide),
               plain = std::make_shared<LocalTable>("n", 8, 2);
    const RowOptimizer rows(table->store(), {}, 1), plain_rows(plain->store(), {}, 1);
    std::optional<CheckpointFiles> saved;
    for (const int64_t step : {1, 2}) {
      std::vector<int64_t> changed = {3};
      if (step == 1) changed.push_back(5);
      for (const int64_t row : changed) counters[row][0] = static_cast<int32_t>(100 * step + row);
      others[3][0] = static_cast<int32_t>(RowUsage::kHeaviest) + static_cast<int32_t>(step);
      CheckpointWriter writer(folder.path(), step);
      const nlohmann::json entry =
          save_table(writer, step, rows, saved, {{{"usage.0", counters}, {"usage.2", others}}, changed});
      saved = writer.finish({{"tables", {{"m", entry}, {"n", save_table(writer, step, plain_rows, {})}}}}, 0);
      EXPECT_EQ(entry.at("deltas").size(), static_cast<size_t>(step - 1));
      table->store().clear_changed_rows();
    }
  }
};

TEST(Exchange, ReadsOfATrainedRunAreThoseOfItsCountersAndDeltas) {
  const CountedRun run;
  std::vector<int64_t> expected(CountedRun::kCounted, 0);
  expected[3] = 203 + 2;
  expected[5] = 105;
  EXPECT_EQ(counted_reads(run.folder / "step-2", ""), expected);
  EXPECT_EQ(counted_reads(run.folder / "step-2", "m"), expected);
  try {
    counted_reads(run.folder / "step-2", "n");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), HasSubstr("the checkpoint must count the reads of n, got none"));
  }
}

nlohmann::json report_of(const BenchOptions& options) {
  std::ostringstream out;
  run_benchmarks(options, out);
  return nlohmann::json::parse(out.str());
}

TEST(Exchange, ReportsBytesSharesAndTimes) {
  BenchOptions options{.names = {"exchange"}, .json = true, .rows = {1000}, .tokens = {20}, .widths = {16}};
  options.exchange.ranks = {1, 3};
  options.exchange.reads = 8;
  const nlohmann::json report = report_of(options);
  ASSERT_EQ(report["results"].size(), 2);
  const auto &one = report["results"][0], &three = report["results"][1];
  EXPECT_EQ(one["bytes_a_token"]["total"], 0);
  EXPECT_EQ(one["segments_a_token"], 1);
  EXPECT_TRUE(one["imbalance"]["bytes"].is_null());
  EXPECT_EQ(one["times"][0]["exchange_ms"], 0);
  EXPECT_EQ(three["shard"], "rows");
  EXPECT_EQ(three["auto"], "columns");
  const auto& bytes = three["bytes_a_token"];
  EXPECT_DOUBLE_EQ(bytes["total"].get<double>(), bytes["forward"].get<double>() + bytes["backward"].get<double>());
  EXPECT_EQ(bytes["counts"], 3 * 2 * 16 / 60.0);
  EXPECT_EQ(bytes["sums"], bytes["gradients"]);
  EXPECT_GE(three["imbalance"]["reads"].get<double>(), 1);
  ASSERT_EQ(three["times"].size(), 3);
  for (size_t n = 0; n < 3; ++n) {
    const auto& time = three["times"][n];
    const double bandwidth = report["networks"][n]["gigabits_per_second"].get<double>() * 1e9 / 8;
    EXPECT_NEAR(time["bound_ms"].get<double>(), bytes["total"].get<double>() * 20 / bandwidth * 1e3, 1e-12);
    const double messages = 7 * 2 * report["networks"][n]["latency_us"].get<double>() / 1e3;
    EXPECT_GT(time["exchange_ms"].get<double>(), time["bound_ms"].get<double>() + messages);
  }
  options.json = false;
  std::ostringstream text;
  run_benchmarks(options, text);
  EXPECT_THAT(text.str(), HasSubstr("law of 1, in parts by rows. Bytes"));

  options.json = true;
  options.exchange.latency = 7;
  options.exchange.bandwidth = 8;
  const nlohmann::json given = report_of(options);
  EXPECT_EQ(given["networks"].dump(), R"([{"gigabits_per_second":8.0,"latency_us":7.0,"network":"given"}])");
}

TEST(Exchange, ByColumnsBytesAreThoseExpectedOfAnyReads) {
  BenchOptions options{.names = {"exchange"}, .json = true, .rows = {1000}, .tokens = {20}, .widths = {512}};
  options.exchange.ranks = {1, 2, 4};
  options.exchange.reads = 16;
  for (const auto* shard : {"columns", "auto"}) {
    options.exchange.shard = shard;
    const nlohmann::json report = report_of(options);
    EXPECT_EQ(report["shard"], shard);
    for (const auto& result : report["results"]) {
      const auto ranks = result["ranks"].get<int64_t>();
      const bool columns = ranks > 1 || options.exchange.shard == "columns";
      EXPECT_EQ(result["shard"], columns ? "columns" : "rows") << ranks;
      if (!columns) continue;
      const auto& bytes = result["bytes_a_token"];
      const double counts = 16.0 * static_cast<double>(ranks - 1) / 20;
      EXPECT_EQ(bytes["counts"], counts);
      EXPECT_NEAR(bytes["total"].get<double>(), result["expected_columns"].get<double>() + counts, 1e-9);
      EXPECT_EQ(result["imbalance"]["reads"], 1);
      const auto& time = result["times"][0];
      const double latency = report["networks"][0]["latency_us"].get<double>() / 1e3;
      EXPECT_NEAR(time["exchange_ms"].get<double>(),
                  time["bound_ms"].get<double>() + 6 * latency * static_cast<double>(ranks - 1), 1e-9);
    }
    EXPECT_LT(report["results"][2]["expected_columns"], report["results"][2]["expected_rows"]);
  }
  options.json = false;
  std::ostringstream text;
  run_benchmarks(options, text);
  EXPECT_THAT(text.str(), HasSubstr("in parts by auto"));
}

TEST(Exchange, RefusesWhatItCannotDraw) {
  const auto refused = [](const auto& change, ExitCode code = ExitCode::usage) {
    BenchOptions options{.names = {"exchange"}, .rows = {1000}, .tokens = {4}};
    options.exchange.ranks = {2};
    change(options);
    std::ostringstream out;
    try {
      run_benchmarks(options, out);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  EXPECT_THAT(refused([](auto& o) { o.exchange.heads = 3; }),
              HasSubstr("--reads must be a multiple of --heads, 3, got 128"));
  EXPECT_THAT(refused([](auto& o) { o.exchange.reads = 8000; }),
              HasSubstr("at most the 1000 rows of the table, got 2000"));
  EXPECT_THAT(refused([](auto& o) { o.exchange.ranks = {5000}; }),
              HasSubstr("--ranks must be from 1 to 4096, got 5000"));
  EXPECT_THAT(refused([](auto& o) { o.tokens = {int64_t{1} << 40}; }),
              HasSubstr("the reads of all ranks must be at most"));
  EXPECT_THAT(refused([](auto& o) { o.rows = {1000, 2000}; }), HasSubstr("--rows must be one number, got 2 of them"));
  EXPECT_THAT(refused([](auto& o) { o.exchange.latency = 1; }), HasSubstr("--latency must come with --bandwidth"));
  EXPECT_THAT(refused([](auto& o) { o.exchange.shard = "x"; }),
              HasSubstr("--shard must be rows, columns or auto, got x"));
  EXPECT_THAT(refused([](auto& o) { o.exchange.counts = "x"; }), HasSubstr("--counts must come without --rows"));
  refused([](auto& o) { o.rows = {}, o.exchange.counts = "no-such-folder"; }, ExitCode::input);
  refused([](auto& o) { o.rows = {int64_t{1} << 40}, o.exchange.ranks = {1}; }, ExitCode::resources);
}

}  // namespace
}  // namespace loci::bench
