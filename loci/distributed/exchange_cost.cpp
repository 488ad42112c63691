// Legend: exchange_cost.h.
#include "loci/distributed/exchange_cost.h"

#include <algorithm>
#include <array>

namespace loci {
namespace {

bool comes_back(ExchangeMessage message) {
  return message == ExchangeMessage::sums || message == ExchangeMessage::weight_gradients;
}

double number_and_weight(const ExchangeSizes& sizes) {
  return static_cast<double>(sizes.row_bytes + sizes.sum_bytes);
}

double bytes_of_sum(const ExchangeSizes& sizes) {
  return static_cast<double>(sizes.width * sizes.sum_bytes);
}

}  // namespace

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

double bytes_by_rows(int64_t ranks, int64_t reads, const ExchangeSizes& sizes) {
  if (ranks == 1) return 0;
  return static_cast<double>(reads) * number_and_weight(sizes) +
         static_cast<double>(std::min(ranks, reads)) * bytes_of_sum(sizes);
}

double bytes_by_columns(int64_t ranks, int64_t reads, const ExchangeSizes& sizes) {
  if (ranks == 1) return 0;
  return static_cast<double>(ranks - 1) * static_cast<double>(reads) * number_and_weight(sizes) + bytes_of_sum(sizes);
}

TableParts cheaper_parts(int64_t ranks, int64_t reads, const ExchangeSizes& sizes) {
  return bytes_by_columns(ranks, reads, sizes) < bytes_by_rows(ranks, reads, sizes) ? TableParts::columns
                                                                                    : TableParts::rows;
}

}  // namespace loci
