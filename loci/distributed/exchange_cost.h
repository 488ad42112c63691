// What an exchange of reads costs: the bytes of its messages, and a model of their time. No torch, no messages.
//
// Legend: K reads of a token, N rows, D width, P ranks, D_p columns of rank p, T tokens of a rank. One rank has M reads
// and S segments (exchange_plan.h) at another.
//
//   message            from the reader   back            parts by rows   parts by columns
//   counts             M and S, T and K                  16              16
//   lengths            reads a segment                   4 S             0
//   rows               row numbers                       b_i M           b_i T K
//   weights            weights                           b_a M           b_a T K
//   sums                                 sums            b_a D S         b_a T D_p of the owner
//   gradients          of the sums                       b_a D S         b_a T D_p of the owner
//   weight_gradients                     of the weights  b_a M           b_a T K
//
// The first five are forward, the others backward. An inner product with rows sends as much in each direction. By
// columns every other rank is an owner of every token.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace loci {

// A table in parts: rank p has consecutive rows of it, or the same columns of all rows.
enum class TableParts { rows, columns };
const char* name_of(TableParts parts);

struct ExchangeSizes {
  int64_t width = 0;      // D
  int64_t row_bytes = 4;  // b_i: 8 where a row number needs more than 31 bits
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

// Bytes of a row number within a part of so many rows.
int64_t row_number_bytes(int64_t rows);

// Between a rank and the others. What a rank sends to itself does not count.
struct RankBytes {
  int64_t sent = 0, received = 0;
};
std::vector<RankBytes> bytes_of_ranks(ExchangeMessage message, const ExchangeCounts& counts,
                                      const ExchangeSizes& sizes);  // [P]
// The same of parts by columns, for ranks with so many tokens [P] of `reads` reads. What is gathered is as long for
// each rank as for that with most tokens.
std::vector<RankBytes> bytes_of_ranks(ExchangeMessage message, std::span<const int64_t> tokens, int64_t reads,
                                      const ExchangeSizes& sizes);

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

// What decides between rows and columns.
struct TableReads {
  int64_t reads = 0, rows = 0, width = 0;  // K, N, D
  int64_t sum_bytes = 4;                   // b_a
  bool row_moment = false;                 // the optimiser keeps one second moment for a whole row
};
ExchangeSizes sizes_of(TableParts parts, int64_t ranks, const TableReads& table);

// What a rank sends for one token of a pass: the mean over ranks, without the counts of a pass.
//   rows      forward K' (b_i + b_a) + G (b_a D + 4), backward G b_a D + K' b_a
//             K' = K (P - 1) / P, G = (P - 1) (1 - (1 - 1 / P)^K): the expected ones of even and independent reads
//   columns   forward (P - 1) K (b_i + b_a) + b_a D (P - 1) / P, backward b_a D (P - 1) / P + (P - 1) K b_a, and at
//             most 16 (P - 1) K for sums of squares of rows where the optimiser needs them
struct TokenBytes {
  double forward = 0, backward = 0;
  double both() const { return forward + backward; }
};
TokenBytes expected_bytes(TableParts parts, int64_t ranks, const TableReads& table);
// Those that send fewer bytes forward and backward; rows where that is equal or there are fewer columns than ranks.
TableParts cheaper_parts(int64_t ranks, const TableReads& table);

}  // namespace loci
