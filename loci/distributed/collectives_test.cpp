// Legend: P ranks.
#include "loci/distributed/collectives.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "tests/ranks.h"

namespace loci {
namespace {

using at::Tensor;

// Rank r has r rows for rank 0, r + 1 for rank 1 and so on; a row holds 100 * sender + receiver.
TEST(AllToAll, UnequalPartsOfEveryDtypeArriveInTheOrderOfRanks) {
  for (const int64_t size : {1, 2, 3, 4}) {
    for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kInt, at::kLong}) {
      run_ranks(size, [&](const Ranks& ranks) {
        std::vector<int64_t> to, from;
        std::vector<Tensor> sent, expected;
        for (int64_t p = 0; p < size; ++p) {
          to.push_back(ranks.rank + p);
          from.push_back(p + ranks.rank);
          sent.push_back(torch::full({to.back(), 3}, 100 * ranks.rank + p, dtype));
          expected.push_back(torch::full({from.back(), 3}, 100 * p + ranks.rank, dtype));
        }
        EXPECT_TRUE(torch::equal(all_to_all(ranks, torch::cat(sent), to, from), torch::cat(expected)));
      });
    }
  }
}

TEST(BeginAllToAll, SeveralMayBeUnderWay) {
  for (const int64_t size : {1, 2, 3}) {
    run_ranks(size, [&](const Ranks& ranks) {
      const std::vector<int64_t> one(static_cast<size_t>(size), 1);
      const Tensor sent = torch::arange(size) + 10 * ranks.rank, came = 10 * torch::arange(size) + ranks.rank;
      std::vector<Begun> begun;
      for (int64_t i = 0; i < 4; ++i) begun.push_back(begin_all_to_all(ranks, sent + 100 * i, one, one));
      Begun rows = begin_all_gather_rows(ranks, sent, std::vector<int64_t>(static_cast<size_t>(size), size));
      for (int64_t i = 0; i < 4; ++i) {
        EXPECT_TRUE(torch::equal(begun[static_cast<size_t>(i)].wait(), came + 100 * i));
      }
      EXPECT_TRUE(torch::equal(rows.wait().view({size, size}).select(0, ranks.rank), sent));
      begin_all_to_all(ranks, sent, one, one);  // nobody waits: the others go on
      EXPECT_TRUE(torch::equal(all_to_all(ranks, sent, one, one), came));
    });
  }
}

TEST(SwapNumbers, EachRankGetsWhatTheOthersHaveForIt) {
  run_ranks(3, [](const Ranks& ranks) {
    const int64_t r = ranks.rank;
    const auto got = swap_numbers(ranks, {{10 * r, 1}, {10 * r + 1, 2}, {10 * r + 2, 3}});
    for (int64_t p = 0; p < 3; ++p) {
      EXPECT_THAT(got[static_cast<size_t>(p)], testing::ElementsAre(10 * p + r, r + 1));
    }
  });
}

TEST(AllGather, EveryRankGetsWhatAllHaveInTheirOrder) {
  for (const int64_t size : {1, 2, 3}) {
    for (const auto dtype : {at::kDouble, at::kInt, at::kLong}) {
      run_ranks(size, [&](const Ranks& ranks) {
        const Tensor mine = torch::arange(6, dtype).view({3, 2}).t() + 10 * ranks.rank;
        const Tensor all = all_gather(ranks, mine);
        ASSERT_EQ(all.sizes(), (std::vector<int64_t>{size, 2, 3}));
        for (int64_t p = 0; p < size; ++p) EXPECT_TRUE(torch::equal(all[p], mine + 10 * (p - ranks.rank)));
      });
    }
  }
}

TEST(SumOver, TensorsOfSeveralDtypesAreSummedInPlace) {
  run_ranks(3, [](const Ranks& ranks) {
    const auto one = static_cast<double>(ranks.rank + 1);
    const Tensor a = torch::full({2, 3}, one), b = torch::full({4}, 10 * one, at::kDouble), c = torch::full({1}, -one);
    const Tensor transposed = torch::full({3, 2}, one).t();
    sum_over(ranks)({a, b, c, transposed});
    EXPECT_TRUE(torch::equal(a, torch::full({2, 3}, 6.)));
    EXPECT_TRUE(torch::equal(b, torch::full({4}, 60., at::kDouble)));
    EXPECT_TRUE(torch::equal(c, torch::full({1}, -6.)));
    EXPECT_TRUE(torch::equal(transposed, torch::full({2, 3}, 6.)));
  });
}

TEST(SumOver, AllRanksHaveTheSameBits) {
  std::vector<Tensor> sums(4);
  run_ranks(4, [&](const Ranks& ranks) {
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(ranks.rank));
    const Tensor x = torch::randn({1001}, generator);
    sum_over(ranks)({x});
    sums[static_cast<size_t>(ranks.rank)] = x;
  });
  for (const Tensor& sum : sums) EXPECT_TRUE(torch::equal(sum, sums[0]));
}

TEST(RanksOf, AnUnknownGroupIsRefused) {
  try {
    ranks_of("nobody");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), testing::HasSubstr("got nobody"));
  }
}

TEST(AllToAll, ARankThatIsGoneIsAPeerError) {
  try {
    run_ranks(2, [](const Ranks& ranks) {
      if (ranks.rank == 1) return;
      all_to_all(ranks, torch::ones({2}), {1, 1}, {1, 1});
    });
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::peer);
    EXPECT_THAT(error.what(), testing::HasSubstr("rank 0 of 2, all_to_all_single: every rank must take part"));
  }
}

}  // namespace
}  // namespace loci
