// Legend: K reads of a token, D width, P ranks.
#include "loci/distributed/exchange_cost.h"

#include <gtest/gtest.h>

#include "loci/distributed/exchange_plan.h"

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

TEST(ExchangeCost, ByColumnsEveryOtherRankOwnsEveryToken) {
  const std::vector<int64_t> tokens = {10, 4, 0};
  const ExchangeSizes sizes{.width = 7, .row_bytes = 8, .sum_bytes = 4};  // columns: 3, 2, 2
  const auto expect = [&](ExchangeMessage message, std::vector<int64_t> sent, std::vector<int64_t> received) {
    const std::vector<RankBytes> bytes = bytes_of_ranks(message, tokens, 5, sizes);
    for (size_t rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(bytes[rank].sent, sent[rank]) << name_of(message) << " " << rank;
      EXPECT_EQ(bytes[rank].received, received[rank]) << name_of(message) << " " << rank;
    }
  };
  expect(ExchangeMessage::counts, {32, 32, 32}, {32, 32, 32});
  expect(ExchangeMessage::lengths, {0, 0, 0}, {0, 0, 0});
  expect(ExchangeMessage::rows, {800, 800, 800}, {800, 800, 800});  // as long as those of rank 0
  expect(ExchangeMessage::weights, {400, 400, 400}, {400, 400, 400});
  expect(ExchangeMessage::sums, {48, 80, 112}, {160, 80, 0});
  expect(ExchangeMessage::gradients, {160, 80, 0}, {48, 80, 112});
  expect(ExchangeMessage::weight_gradients, {80, 200, 280}, {400, 160, 0});
}

TEST(ExchangeCost, SegmentsAreThoseThatEvenReadsMake) {
  constexpr int64_t T = 20'000, K = 6, P = 5, N = 1'000'003;
  std::vector<int64_t> index(T * K);
  uint64_t state = 1;
  for (int64_t& row : index) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    row = static_cast<int64_t>((state >> 33) % N);
  }
  const ExchangePlan plan = plan_exchange(index, K, equal_parts(N, P));
  const TableReads table = {.reads = K, .rows = N, .width = 0};
  // Forward bytes of numbers and weights alone leave those of the segments' lengths.
  const double lengths = expected_bytes(TableParts::rows, P, table).forward - K * 8.0 * (P - 1) / P;
  const double counted = 4.0 * static_cast<double>(plan.segment_token.size()) / T * (P - 1) / P;
  EXPECT_NEAR(lengths, counted, 0.02);
}

TEST(ExchangeCost, ExpectedBytesAreThoseOfTheFormulas) {
  const TableReads wide{.reads = 128, .rows = 1 << 20, .width = 1024};
  const TokenBytes rows = expected_bytes(TableParts::rows, 2, wide);
  EXPECT_DOUBLE_EQ(rows.forward, 64 * 8 + 4096 + 4);
  EXPECT_DOUBLE_EQ(rows.backward, 4096 + 64 * 4);
  const TokenBytes columns = expected_bytes(TableParts::columns, 8, wide);
  EXPECT_DOUBLE_EQ(columns.forward, 7 * 128 * 8 + 4096 * 7 / 8);
  EXPECT_DOUBLE_EQ(columns.backward, 7 * 128 * 4 + 4096 * 7 / 8);
  for (const auto parts : {TableParts::rows, TableParts::columns}) EXPECT_EQ(expected_bytes(parts, 1, wide).both(), 0);
  TableReads other = wide;
  other.row_moment = true;
  EXPECT_DOUBLE_EQ(expected_bytes(TableParts::columns, 8, other).backward, columns.backward + 7 * 128 * 16);
  EXPECT_EQ(expected_bytes(TableParts::rows, 2, other).both(), rows.both());
  other = {.reads = 1, .rows = int64_t{1} << 31, .width = 2};  // a half has fewer than 2^31 rows
  EXPECT_EQ(sizes_of(TableParts::rows, 2, other).row_bytes, 4);
  EXPECT_EQ(sizes_of(TableParts::columns, 2, other).row_bytes, 8);
}

TEST(ExchangeCost, ColumnsAreCheaperForFewReadsOfWideRows) {
  const TableReads wide{.reads = 128, .rows = 1 << 20, .width = 1024};
  TableReads narrow = wide;
  narrow.width = 64;
  EXPECT_EQ(cheaper_parts(8, wide), TableParts::columns);
  EXPECT_EQ(cheaper_parts(64, wide), TableParts::columns);
  EXPECT_EQ(cheaper_parts(1000, wide), TableParts::rows);
  EXPECT_EQ(cheaper_parts(8, narrow), TableParts::rows);
  EXPECT_EQ(cheaper_parts(1, wide), TableParts::rows);
  EXPECT_EQ(cheaper_parts(8, {.reads = 1, .rows = 100, .width = 7}), TableParts::rows);  // fewer columns than ranks
}

}  // namespace
}  // namespace loci
