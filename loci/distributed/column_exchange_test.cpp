// Legend: T tokens, K reads of a token, D width, A tokens of all ranks.
#include "loci/distributed/column_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "tests/ranks.h"

namespace loci::column_exchange_test {
namespace {

using at::Tensor;

// Rank 0 has columns 0 and 1, rank 1 column 2, rank 2 column 3. Rank 1 has no tokens.
const std::vector<int64_t> kFirst = {0, 2, 3, 4};
constexpr int64_t kTokensOf[] = {2, 0, 1};

Tensor part(const Tensor& all, const Ranks& ranks) {
  const int64_t first[] = {0, 2, 2};
  return all.narrow(0, first[ranks.rank], kTokensOf[ranks.rank]);
}

TEST(ColumnExchange, EveryRankHasTheTokensOfAll) {
  const Tensor index = torch::tensor({{7, 1}, {2, 2}, {9, 4}});
  const Tensor reads = torch::tensor({{1., 2.}, {3., 4.}, {5., 6.}});
  const Tensor vectors = torch::arange(12.).view({3, 4});
  run_ranks(3, [&](const Ranks& ranks) {
    const auto rank = static_cast<size_t>(ranks.rank);
    const ColumnExchange exchange(ranks, kFirst, 10, part(index, ranks), part(reads, ranks));
    EXPECT_TRUE(torch::equal(exchange.index(), index));
    EXPECT_TRUE(torch::equal(exchange.came_along(), reads));
    EXPECT_TRUE(torch::equal(exchange.send_reads(part(reads, ranks)), reads));
    const Tensor columns = vectors.narrow(1, kFirst[rank], kFirst[rank + 1] - kFirst[rank]);
    EXPECT_TRUE(torch::equal(exchange.send_tokens(part(vectors, ranks)), columns));
    EXPECT_TRUE(torch::equal(exchange.return_sums(columns), part(vectors, ranks)));
    // 2^-23 is lost beside 1 but not beside itself: the order of sums is that of ranks.
    const Tensor partial = torch::full({3, 2}, ranks.rank == 0 ? 1.F : 0x1p-24F);
    EXPECT_TRUE(torch::equal(exchange.return_reads(partial), part(torch::ones({3, 2}), ranks)));
    EXPECT_TRUE(torch::equal(exchange.return_reads(reads), part(reads * 3, ranks)));
  });
}

TEST(ColumnExchange, RanksThatReadDifferentlyAreRefusedOnAll) {
  run_ranks(2, [](const Ranks& ranks) {
    try {
      ColumnExchange(ranks, {0, 1, 2}, 10, torch::zeros({1, 2 + ranks.rank}, at::kLong));
      ADD_FAILURE() << "no error";
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("every rank must read as many rows a token"));
    }
    const Tensor no_tokens = torch::zeros({0, 2 + ranks.rank}, at::kLong);
    const ColumnExchange none(ranks, {0, 1, 2}, 10, no_tokens, no_tokens.to(at::kFloat));
    EXPECT_EQ(none.index().size(0), 0);
    EXPECT_EQ(none.came_along().size(0), 0);
    EXPECT_EQ(none.return_reads(none.send_reads(torch::zeros({0, 2 + ranks.rank}))).size(1), 2 + ranks.rank);
  });
}

}  // namespace
}  // namespace loci::column_exchange_test
