#include "loci/distributed/same_on_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "loci/base/check.h"
#include "tests/ranks.h"

namespace loci {
namespace {

TEST(SameOnRanks, EqualFactsPass) {
  run_ranks(3, [](const Ranks& ranks) { require_same(ranks, {{"version", "1"}, {"recipe", "a = 1\nb = 2\n"}}); });
}

TEST(SameOnRanks, AllRanksNameTheFirstThatDiffersAndTheLine) {
  run_ranks(3, [](const Ranks& ranks) {
    const std::string recipe = ranks.rank == 2 ? "a = 1\nb = 3\n" : "a = 1\nb = 2\n";
    try {
      require_same(ranks, {{"version", "1"}, {"recipe", recipe}});
      ADD_FAILURE() << "no error on rank " << ranks.rank;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_THAT(error.what(), testing::StrEq("rank 2: recipe must be that of rank 0, \"b = 2\", got \"b = 3\""));
    }
  });
}

}  // namespace
}  // namespace loci
