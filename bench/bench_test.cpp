#include "bench/bench.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "loci/base/check.h"

namespace loci {
namespace {

TEST(Bench, RefusesAnUnknownOperator) {
  std::ostringstream out;
  try {
    run_benchmarks({{"serach"}, false, 1}, out);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("bench: the operator must be one of select, search"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("got serach"));
  }
}

TEST(Bench, ReportsEveryCaseBesideItsDefinitionAndTheMachine) {
  std::ostringstream out;
  ASSERT_EQ(run_benchmarks({{"select"}, true, 1}, out), 0);
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

}  // namespace
}  // namespace loci
