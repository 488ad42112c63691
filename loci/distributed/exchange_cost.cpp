// Legend: exchange_cost.h.
#include "loci/distributed/exchange_cost.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "loci/distributed/exchange_plan.h"

namespace loci {
namespace {

bool comes_back(ExchangeMessage message) {
  return message == ExchangeMessage::sums || message == ExchangeMessage::weight_gradients;
}

}  // namespace

const char* name_of(TableParts parts) {
  return parts == TableParts::rows ? "rows" : "columns";
}

const char* name_of(ExchangeMessage message) {
  constexpr std::array<const char*, kExchangeMessages> names = {
      "counts", "lengths", "rows", "weights", "sums", "gradients", "weight_gradients"};
  return names[static_cast<size_t>(message)];
}

int64_t message_bytes(ExchangeMessage message, int64_t reads, int64_t segments, const ExchangeSizes& sizes) {
  switch (message) {
    case ExchangeMessage::counts:
      return 16;
    case ExchangeMessage::lengths:
      return 4 * segments;
    case ExchangeMessage::rows:
      return sizes.row_bytes * reads;
    case ExchangeMessage::weights:
    case ExchangeMessage::weight_gradients:
      return sizes.sum_bytes * reads;
    case ExchangeMessage::sums:
    case ExchangeMessage::gradients:
      return sizes.sum_bytes * sizes.width * segments;
  }
  return 0;
}

int64_t row_number_bytes(int64_t rows) {
  return rows <= std::numeric_limits<int32_t>::max() ? 4 : 8;
}

std::vector<RankBytes> bytes_of_ranks(ExchangeMessage message, const ExchangeCounts& counts,
                                      const ExchangeSizes& sizes) {
  std::vector<RankBytes> result(static_cast<size_t>(counts.ranks));
  for (int64_t reader = 0; reader < counts.ranks; ++reader) {
    for (int64_t owner = 0; owner < counts.ranks; ++owner) {
      if (reader == owner) continue;
      const size_t pair = counts.at(reader, owner);
      const int64_t bytes = message_bytes(message, counts.reads[pair], counts.segments[pair], sizes);
      const bool back = comes_back(message);
      result[static_cast<size_t>(back ? owner : reader)].sent += bytes;
      result[static_cast<size_t>(back ? reader : owner)].received += bytes;
    }
  }
  return result;
}

std::vector<RankBytes> bytes_of_ranks(ExchangeMessage message, std::span<const int64_t> tokens, int64_t reads,
                                      const ExchangeSizes& sizes) {
  std::vector<RankBytes> result(tokens.size());
  if (message == ExchangeMessage::lengths || tokens.empty()) return result;
  const bool gathered = message == ExchangeMessage::rows || message == ExchangeMessage::weights;
  const std::vector<int64_t> first = equal_parts(sizes.width, std::ssize(tokens));
  for (size_t reader = 0; reader < tokens.size(); ++reader) {
    for (size_t owner = 0; owner < tokens.size(); ++owner) {
      if (reader == owner) continue;
      const int64_t of = gathered ? std::ranges::max(tokens) : tokens[reader];
      const ExchangeSizes columns = {first[owner + 1] - first[owner], sizes.row_bytes, sizes.sum_bytes};
      const int64_t bytes = message_bytes(message, of * reads, of, columns);
      const bool back = comes_back(message);
      result[back ? owner : reader].sent += bytes;
      result[back ? reader : owner].received += bytes;
    }
  }
  return result;
}

std::span<const Network> named_networks() {
  constexpr double kGigabit = 1e9 / 8;
  static const std::array<Network, 3> networks = {Network{"25G-ethernet", 20e-6, 25 * kGigabit},
                                                  Network{"100G-ethernet", 10e-6, 100 * kGigabit},
                                                  Network{"400G-infiniband", 2e-6, 400 * kGigabit}};
  return networks;
}

double collective_seconds(const Network& network, int64_t ranks, double most_bytes) {
  return static_cast<double>(ranks - 1) * network.latency + most_bytes / network.bandwidth;
}

double memory_bytes(int64_t reads, int64_t distinct_rows, int64_t width, int64_t value_bytes) {
  const double gradient = 4, moments = 2 * 2 * 4;
  const auto values = 2 * static_cast<double>(value_bytes);  // forward and backward; read and written
  return static_cast<double>(width) *
         (static_cast<double>(reads) * (values + gradient) + static_cast<double>(distinct_rows) * (values + moments));
}

ExchangeSizes sizes_of(TableParts parts, int64_t ranks, const TableReads& table) {
  const int64_t rows = parts == TableParts::rows ? (table.rows + ranks - 1) / ranks : table.rows;
  return {table.width, row_number_bytes(rows), table.sum_bytes};
}

TokenBytes expected_bytes(TableParts parts, int64_t ranks, const TableReads& table) {
  const ExchangeSizes sizes = sizes_of(parts, ranks, table);
  const auto P = static_cast<double>(ranks), K = static_cast<double>(table.reads);
  const auto number = static_cast<double>(sizes.row_bytes), weight = static_cast<double>(sizes.sum_bytes);
  const double vector = static_cast<double>(table.width) * weight;
  if (parts == TableParts::rows) {
    const double reads = K * (P - 1) / P, segments = (P - 1) * (1 - std::pow(1 - 1 / P, K));
    return {reads * (number + weight) + segments * (vector + 4), segments * vector + reads * weight};
  }
  const double reads = (P - 1) * K, slices = vector * (P - 1) / P;
  return {reads * (number + weight) + slices, slices + reads * weight + (table.row_moment ? reads * 16 : 0)};
}

TableParts cheaper_parts(int64_t ranks, const TableReads& table) {
  if (table.width < ranks) return TableParts::rows;
  const auto bytes = [&](TableParts parts) { return expected_bytes(parts, ranks, table).both(); };
  return bytes(TableParts::columns) < bytes(TableParts::rows) ? TableParts::columns : TableParts::rows;
}

}  // namespace loci
