// Legend: T tokens, K reads of a token, D width, S segments of a rank, C the most reads in one.
#include "loci/distributed/row_exchange.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "tests/ranks.h"

namespace loci {
namespace {

using at::Tensor;

// Rank 0 has rows 0 to 4, rank 1 rows 5 to 9. Rank 0 reads for two tokens, rank 1 for one.
const std::vector<int64_t> kFirst = {0, 5, 10};

Tensor index_of(const Ranks& ranks) {
  return ranks.rank == 0 ? torch::tensor({{7, 1, 8}, {2, 2, 0}}) : torch::tensor({{9, 4, 6}});
}

Tensor padded_index(const Ranks& ranks) {
  return ranks.rank == 0 ? torch::tensor({{1, 1, 1}, {2, 2, 0}, {4, 4, 4}})  // tokens 0 and 1 of rank 0, 0 of rank 1
                         : torch::tensor({{2, 3}, {4, 1}});                  // token 0 of rank 0, token 0 of rank 1
}

TEST(RowExchange, SegmentsAreOrderedByRankAndToken) {
  run_ranks(2, [](const Ranks& ranks) {
    const RowExchange exchange(ranks, kFirst, index_of(ranks));
    EXPECT_TRUE(torch::equal(exchange.index(), padded_index(ranks)));

    const Tensor sent = ranks.rank == 0 ? torch::tensor({{1., 2., 3.}, {4., 5., 6.}}) : torch::tensor({{7., 8., 9.}});
    const Tensor came = ranks.rank == 0 ? torch::tensor({{2., 0., 0.}, {4., 5., 6.}, {8., 0., 0.}})
                                        : torch::tensor({{1., 3.}, {7., 9.}});
    EXPECT_TRUE(torch::equal(exchange.send_reads(sent), came));
    EXPECT_FALSE(exchange.came_along().defined());
    EXPECT_TRUE(torch::equal(RowExchange(ranks, kFirst, index_of(ranks), sent).came_along(), came));
    EXPECT_TRUE(torch::equal(exchange.return_reads(came), sent));

    const Tensor tokens = ranks.rank == 0 ? torch::tensor({{1., 10.}, {2., 20.}}) : torch::tensor({{3., 30.}});
    const Tensor vectors =
        ranks.rank == 0 ? torch::tensor({{1., 10.}, {2., 20.}, {3., 30.}}) : torch::tensor({{1., 10.}, {3., 30.}});
    EXPECT_TRUE(torch::equal(exchange.send_tokens(tokens), vectors));
    // Token 0 of each rank has reads of both ranks, token 1 of rank 0 those of one.
    const Tensor sums = ranks.rank == 0 ? torch::tensor({{2., 20.}, {2., 20.}}) : torch::tensor({{6., 60.}});
    EXPECT_TRUE(torch::equal(exchange.return_sums(vectors), sums));
  });
}

TEST(RowExchange, ARankMayHaveNoTokensAndNoRows) {
  run_ranks(3, [](const Ranks& ranks) {  // rank 1 has no rows, rank 2 no tokens
    const Tensor index = ranks.rank == 2 ? torch::empty({0, 2}, at::kLong) : torch::tensor({{0, 3}});
    const RowExchange exchange(ranks, {0, 2, 2, 4}, index, torch::ones(index.sizes()));
    EXPECT_TRUE(torch::equal(exchange.came_along(), torch::ones(exchange.index().sizes())));
    EXPECT_EQ(exchange.index().size(0), ranks.rank == 1 ? 0 : 2);
    const Tensor sums = exchange.return_sums(torch::ones({exchange.index().size(0), 3}));
    EXPECT_TRUE(torch::equal(sums, torch::full({index.size(0), 3}, 2.)));
  });
}

}  // namespace
}  // namespace loci
