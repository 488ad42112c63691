// Legend: K reads of a token, D width, P ranks.
#include "loci/distributed/exchange_cost.h"

#include <gtest/gtest.h>

namespace loci {
namespace {

TEST(ExchangeCost, BytesGoFromReadersToOwnersAndBack) {
  ExchangeCounts counts(3);
  counts.reads[counts.at(0, 0)] = 100;  // stays on its rank
  counts.segments[counts.at(0, 0)] = 50;
  counts.reads[counts.at(0, 1)] = 7;
  counts.segments[counts.at(0, 1)] = 3;
  counts.reads[counts.at(2, 1)] = 2;
  counts.segments[counts.at(2, 1)] = 1;
  const ExchangeSizes sizes{.width = 5, .row_bytes = 8, .sum_bytes = 4};
  const auto expect = [&](ExchangeMessage message, std::vector<int64_t> sent, std::vector<int64_t> received) {
    const std::vector<RankBytes> bytes = bytes_of_ranks(message, counts, sizes);
    for (size_t rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(bytes[rank].sent, sent[rank]) << name_of(message) << " " << rank;
      EXPECT_EQ(bytes[rank].received, received[rank]) << name_of(message) << " " << rank;
    }
  };
  expect(ExchangeMessage::counts, {32, 32, 32}, {32, 32, 32});
  expect(ExchangeMessage::lengths, {12, 0, 4}, {0, 16, 0});
  expect(ExchangeMessage::rows, {56, 0, 16}, {0, 72, 0});
  expect(ExchangeMessage::weights, {28, 0, 8}, {0, 36, 0});
  expect(ExchangeMessage::sums, {0, 80, 0}, {60, 0, 20});
  expect(ExchangeMessage::gradients, {60, 0, 20}, {0, 80, 0});
  expect(ExchangeMessage::weight_gradients, {0, 36, 0}, {28, 0, 8});
}

TEST(ExchangeCost, ACollectiveTakesItsMessagesAndTheMostBytes) {
  const Network network{"", 1e-3, 1e6};
  EXPECT_DOUBLE_EQ(collective_seconds(network, 5, 2e6), 2.004);
  EXPECT_EQ(collective_seconds(network, 1, 0), 0);
}

TEST(ExchangeCost, RowsAreReadTwiceAndWrittenOnceWithTheirMoments) {
  EXPECT_EQ(memory_bytes(10, 0, 8, 4), 10 * 8 * (4 + 4 + 4));
  EXPECT_EQ(memory_bytes(0, 3, 8, 2), 3 * 8 * (2 + 2 + 4 * 4));
}

TEST(ExchangeCost, ColumnsAreCheaperForFewReadsOfWideRows) {
  const ExchangeSizes wide{.width = 1024}, narrow{.width = 64};
  EXPECT_EQ(bytes_by_rows(8, 128, wide), 128 * 8 + 8 * 4096);
  EXPECT_EQ(bytes_by_columns(8, 128, wide), 7 * 128 * 8 + 4096);
  EXPECT_EQ(bytes_by_rows(512, 128, wide), 128 * 8 + 128 * 4096);  // a token reads at no more ranks than it has reads
  EXPECT_EQ(cheaper_parts(8, 128, wide), TableParts::columns);
  EXPECT_EQ(cheaper_parts(1024, 128, wide), TableParts::rows);
  EXPECT_EQ(cheaper_parts(8, 128, narrow), TableParts::rows);
  EXPECT_EQ(bytes_by_rows(1, 128, wide), 0);
  EXPECT_EQ(cheaper_parts(1, 128, wide), TableParts::rows);
}

}  // namespace
}  // namespace loci
