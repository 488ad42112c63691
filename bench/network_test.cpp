#include "bench/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/exchange.h"
#include "loci/base/check.h"
#include "tests/ranks.h"

namespace loci::bench {
namespace {

using testing::HasSubstr;

TEST(NetworkBench, FitsTheNetworkThatTheTimesComeFrom) {
  const Network network{"", 20e-6, 3e9};
  std::vector<CollectiveTime> times;
  for (const double bytes : {64.0, 4096.0, 1e6, 1e8}) times.push_back({bytes, collective_seconds(network, 5, bytes)});
  const Network fitted = fit_network(5, times);
  EXPECT_NEAR(fitted.latency, 20e-6, 1e-9);
  EXPECT_NEAR(fitted.bandwidth, 3e9, 1e5);
  EXPECT_THROW(fit_network(5, std::span(times).first(1)), c10::Error);
}

TEST(NetworkBench, AllRanksGetTheTimesOfTheSlowest) {
  BenchOptions options;
  options.repeats = 1;
  options.tokens = {8};
  options.rows = {64};
  options.widths = {8, 16};
  options.exchange.reads = 4;
  options.exchange.heads = 2;
  std::vector<nlohmann::json> reports(3);
  run_ranks(3, [&](const Ranks& ranks) { reports[static_cast<size_t>(ranks.rank)] = measure_network(ranks, options); });
  EXPECT_EQ(reports[0], reports[1]);
  EXPECT_EQ(reports[0], reports[2]);
  ASSERT_EQ(reports[0]["exchanges"].size(), 2);
  for (const auto& exchange : reports[0]["exchanges"]) EXPECT_GT(exchange["ms"], 0);
  // Sums and their gradients alone depend on the width.
  EXPECT_GT(reports[0]["exchanges"][1]["bytes"], reports[0]["exchanges"][0]["bytes"]);
  EXPECT_THAT(network_text(reports[0]), HasSubstr("3 ranks"));
}

TEST(NetworkBench, HeadsNeedAsManyRowsAsTheyRead) {
  ExchangeOptions options{.reads = 128, .heads = 2};
  check_reads("bench network", options, 64);
  try {
    check_reads("bench network", options, 63);
    FAIL() << "a head cannot read 64 of 63 rows";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "bench network: the reads of a head must be at most the 63 rows of the table, got 64");
  }
}

TEST(NetworkBench, NeedsRanks) {
  try {
    run_network({});
    FAIL() << "one process has no network";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), HasSubstr("bench network: must be started by torchrun"));
  }
}

}  // namespace
}  // namespace loci::bench
