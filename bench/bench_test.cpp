#include "bench/bench.h"

#include <gmock/gmock.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "loci/base/check.h"

namespace loci {
namespace {

TEST(Bench, RefusesAnUnknownOperator) {
  std::ostringstream out;
  try {
    run_benchmarks({.names = {"serach"}}, out);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("bench: the operator must be one of memory, memory_map, resnet, "
                                                   "pairwise, mapped, ode, exchange, network, few_linear, "));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("got serach"));
  }
}

TEST(Bench, ReportsEveryCaseBesideItsDefinitionAndTheMachine) {
  std::ostringstream out;
  ASSERT_EQ(run_benchmarks({.names = {"select"}, .json = true, .repeats = 1}, out), 0);
  const auto report = nlohmann::json::parse(out.str());
  EXPECT_GT(report["machine"]["copy_bytes_per_second"].get<double>(), 0);
  ASSERT_EQ(report["results"].size(), 3u);
  for (const auto& result : report["results"]) {
    EXPECT_EQ(result["operator"], "select");
    EXPECT_GT(result["seconds"].get<double>(), 0);
    EXPECT_LE(result["seconds_least"].get<double>(), result["seconds_most"].get<double>());
    EXPECT_GT(result["times_the_definition"].get<double>(), 0);
    EXPECT_GT(result["share_of_bandwidth"].get<double>(), 0);
  }
}

TEST(Bench, ReportsTheMemoryBesideTheStockOne) {
  std::ostringstream out;
  const BenchOptions options{
      .names = {"memory"}, .json = true, .repeats = 1, .rows = {1024}, .tokens = {33, 1}, .widths = {64}};
  ASSERT_EQ(run_benchmarks(options, out), 0);
  const auto report = nlohmann::json::parse(out.str());
  std::vector<std::string> names;
  for (const auto& result : report["results"]) {
    names.push_back(result["name"].get<std::string>() + " " + result["dtype"].get<std::string>());
    EXPECT_EQ(result["rows"], 1024);
    EXPECT_EQ(result["width"], 64);
    EXPECT_GT(result["us_per_token"].get<double>(), 0);
    EXPECT_GT(result["share_of_bound"].get<double>(), 0);
    EXPECT_DOUBLE_EQ(result["ratio"].get<double>(),
                     result["stock_us_per_token"].get<double>() / result["us_per_token"].get<double>());
  }
  EXPECT_THAT(names, ::testing::ElementsAre("forward float32", "train float32", "search float32", "read float32",
                                            "update float32", "forward bfloat16", "train bfloat16", "read bfloat16",
                                            "update bfloat16", "decode float32", "decode bfloat16"));
}

TEST(Bench, ReportsTheMemoryOfAMapBesideTheStockOneAndAConvolution) {
  std::ostringstream out;
  const BenchOptions options{
      .names = {"memory_map"}, .json = true, .repeats = 1, .rows = {256, 257}, .tokens = {65}, .widths = {8}};
  ASSERT_EQ(run_benchmarks(options, out), 0);
  const auto report = nlohmann::json::parse(out.str());
  std::vector<std::string> names;
  for (const auto& result : report["results"]) {
    names.push_back(result["name"].get<std::string>() + " " + std::to_string(result["rows"].get<int>()));
    EXPECT_EQ(result["tokens"], 128);  // whole images
    EXPECT_DOUBLE_EQ(result["times_the_convolution"].get<double>(),
                     result["ms"].get<double>() / result["convolution_ms"].get<double>());
    EXPECT_EQ(result["ratio"].is_null(), result["rows"] == 257);  // the stock one has a square of rows
    if (result["rows"] == 257) continue;
    EXPECT_DOUBLE_EQ(result["ratio"].get<double>(), result["stock_ms"].get<double>() / result["ms"].get<double>());
  }
  EXPECT_THAT(names, ::testing::ElementsAre("forward 256", "train 256", "forward 257", "train 257"));
}

TEST(Bench, ReportsAStepOfANetworkWithAndWithoutAMemory) {
  std::ostringstream out;
  const BenchOptions options{.names = {"resnet"}, .json = true, .repeats = 1, .rows = {256}, .bfloat16 = false};
  ASSERT_EQ(run_benchmarks(options, out), 0);
  const auto report = nlohmann::json::parse(out.str());
  std::vector<std::string> names;
  for (const auto& result : report["results"]) {
    names.push_back(result["name"].get<std::string>());
    EXPECT_DOUBLE_EQ(result["times_plain"].get<double>(),
                     result["ms"].get<double>() / report["results"][0]["ms"].get<double>());
  }
  EXPECT_THAT(names, ::testing::ElementsAre("plain", "side"));
  EXPECT_EQ(report["results"][0]["multiply_adds"], 40'551'040);
}

TEST(Bench, ReportsPairwiseOperatorsBesideTheirDefinitions) {
  std::ostringstream out;
  const BenchOptions options{.names = {"pairwise"}, .json = true, .repeats = 1, .tokens = {16}, .widths = {8}};
  ASSERT_EQ(run_benchmarks(options, out), 0);
  const auto report = nlohmann::json::parse(out.str());
  std::vector<std::string> names;
  for (const auto& result : report["operators"]) {
    names.push_back(result["form"].get<std::string>() + " " + std::to_string(result["keys"].get<int>()) + " " +
                    result["order"].get<std::string>());
    EXPECT_DOUBLE_EQ(result["ratio"].get<double>(), result["definition_ms"].get<double>() / result["ms"].get<double>());
    EXPECT_EQ(result["rival_ms"].is_null(), result["form"] == "dot");
  }
  EXPECT_THAT(names, ::testing::ElementsAre("embedded 16 matrix", "dot 16 associated", "concat 16 sorted",
                                            "embedded 4 matrix", "dot 4 matrix", "concat 4 sorted"));
}

TEST(Bench, ReportsRowsInFilesWithAndWithoutPrefetch) {
  std::ostringstream out;
  const BenchOptions options{.names = {"mapped"}, .json = true, .repeats = 1, .rows = {512}, .widths = {64}};
  ASSERT_EQ(run_benchmarks(options, out), 0);
  const auto report = nlohmann::json::parse(out.str());
  std::vector<std::string> names;
  for (const auto& result : report["results"]) {
    names.push_back(result["pass"].get<std::string>() + " " + result["memory"].get<std::string>());
    EXPECT_EQ(result["row_bytes"], 128);
    EXPECT_EQ(result["failed_advices"], 0);
    EXPECT_DOUBLE_EQ(result["ratio"].get<double>(),
                     result["faults_ms"].get<double>() / result["prefetch_ms"].get<double>());
  }
  EXPECT_THAT(names,
              ::testing::ElementsAre("read cold", "read half", "read warm", "train cold", "train half", "train warm"));
  EXPECT_EQ(report["results"][0]["pages"], 16);
}

TEST(Bench, ReportsStepsOfOdeBlocksBesideTheFieldByHand) {
  std::ostringstream out, table;
  ASSERT_EQ(run_benchmarks({.names = {"ode"}, .json = true, .repeats = 1}, out), 0);
  const auto report = nlohmann::json::parse(out.str());
  ASSERT_EQ(report["solutions"].size(), 4);
  for (const auto& row : report["solutions"]) {
    EXPECT_DOUBLE_EQ(row["ratio"].get<double>(), row["by_hand_ms"].get<double>() / row["ms"].get<double>());
    EXPECT_EQ(row["adjoint_ms"].is_null(), row["pass"] == "forward");
  }
  ASSERT_EQ(run_benchmarks({.names = {"ode"}, .repeats = 1}, table), 0);
  EXPECT_THAT(table.str(), ::testing::HasSubstr("a step of rk4"));
}

TEST(Bench, RefusesImpossibleSizes) {
  std::ostringstream out;
  for (const BenchOptions& options :
       {BenchOptions{.names = {"memory"}, .rows = {0}}, BenchOptions{.names = {"memory"}, .rows = {31}},
        BenchOptions{.names = {"memory"}, .tokens = {-1}},
        BenchOptions{.names = {"memory"}, .tokens = {std::numeric_limits<int64_t>::max()}},
        BenchOptions{.names = {"memory"}, .widths = {7}}}) {
    try {
      run_benchmarks(options, out);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_THAT(error.what(), ::testing::StartsWith("bench: "));
    }
  }
  const int64_t absurd = int64_t{1} << 40;
  for (const BenchOptions& options : std::vector<BenchOptions>{{.names = {"memory"}, .rows = {absurd}},
                                                               {.names = {"memory"}, .tokens = {absurd}},
                                                               {.names = {"memory_map"}, .tokens = {absurd}},
                                                               {.names = {"memory_map"}, .rows = {absurd}},
                                                               {.names = {"resnet"}, .rows = {absurd}},
                                                               {.names = {"pairwise"}, .tokens = {absurd}}}) {
    try {
      run_benchmarks(options, out);
      ADD_FAILURE() << options.names[0];
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::resources);
      EXPECT_THAT(error.what(), ::testing::HasSubstr("must fit into the memory that is free"));
    }
  }
}

}  // namespace
}  // namespace loci
