// What an exchange of reads costs: the bytes of its messages, and a model of their time. No torch, no messages.
//
// Legend: K reads of a token, N rows, D width, P ranks. One rank has M reads and S segments (exchange_plan.h) at
// another.
//
//   message            from the reader   back            bytes
//   counts             M and S                           16
//   lengths            reads a segment                   4 S
//   rows               row numbers                       b_i M
//   weights            weights                           b_a M
//   sums                                 sums            b_a D S
//   gradients          of the sums                       b_a D S
//   weight_gradients                     of the weights  b_a M
//
// The first five are forward, the others backward. An inner product with rows sends as much in each direction.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace loci {

struct ExchangeSizes {
  int64_t width = 0;      // D
  int64_t row_bytes = 4;  // b_i: 8 where a part has 2^31 rows or more
  int64_t sum_bytes = 4;  // b_a: 8 for rows in float64
};

enum class ExchangeMessage { counts, lengths, rows, weights, sums, gradients, weight_gradients };
constexpr int64_t kExchangeMessages = 7;
constexpr ExchangeMessage kLastForward = ExchangeMessage::sums;
const char* name_of(ExchangeMessage message);
int64_t message_bytes(ExchangeMessage message, int64_t reads, int64_t segments, const ExchangeSizes& sizes);

// The reads and segments of each rank at each: what plan_exchange() gives in reads_to and segments_to.
struct ExchangeCounts {
  explicit ExchangeCounts(int64_t ranks)
      : ranks(ranks), reads(static_cast<size_t>(ranks * ranks)), segments(static_cast<size_t>(ranks * ranks)) {}
  size_t at(int64_t reader, int64_t owner) const { return static_cast<size_t>(reader * ranks + owner); }

  int64_t ranks;
  std::vector<int64_t> reads, segments;  // [P, P]: reader, owner
};

// Between a rank and the others. What a rank sends to itself does not count.
struct RankBytes {
  int64_t sent = 0, received = 0;
};
std::vector<RankBytes> bytes_of_ranks(ExchangeMessage message, const ExchangeCounts& counts,
                                      const ExchangeSizes& sizes);  // [P]

// As one rank has it: seconds before a message's first byte, bytes a second in each direction.
struct Network {
  std::string name;
  double latency = 0, bandwidth = 0;
};
std::span<const Network> named_networks();  // line rates and assumed latencies

// A collective sends P - 1 messages one after another, then waits for the rank with the most bytes.
double collective_seconds(const Network& network, int64_t ranks, double most_bytes);

// What a rank moves in memory for the reads that it answers, with Adam whose moments are float32: a row is read forward
// and for the gradient of its weight, a gradient is read for each read, every distinct row is read and written with its
// moments.
double memory_bytes(int64_t reads, int64_t distinct_rows, int64_t width, int64_t value_bytes);

// Forward bytes of a token, one way, by formula: rows in parts, or columns in parts. Parts by columns do not exist yet.
double bytes_by_rows(int64_t ranks, int64_t reads, const ExchangeSizes& sizes);
double bytes_by_columns(int64_t ranks, int64_t reads, const ExchangeSizes& sizes);
enum class TableParts { rows, columns };
TableParts cheaper_parts(int64_t ranks, int64_t reads, const ExchangeSizes& sizes);  // equal bytes: rows

}  // namespace loci
