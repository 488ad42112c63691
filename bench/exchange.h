// `loci bench exchange`: what a step's exchange of a table in parts costs, simulated for all its ranks in one process.
//
// Legend: T tokens of a rank, H heads, K reads of a token, N rows, D width, P ranks.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "bench/bench.h"
#include "bench/exchange_reads.h"
#include "loci/distributed/exchange_cost.h"

namespace loci::bench {

struct ExchangeDraw {
  ExchangeCounts counts;
  std::vector<int64_t> distinct;  // [P]: rows of each rank that any token read
  int64_t token_repeats = 0;      // reads of a row that the token has read already
  int64_t rank_repeats = 0;       // reads of a row that the rank has read already
};

// Throws Error (usage) unless each head can read its share of distinct rows.
void check_reads(std::string_view who, const ExchangeOptions& options, int64_t rows);

// Draws and plans the reads of all ranks: the same for any number of threads.
ExchangeDraw draw_exchange(const RowSource& source, const ExchangeOptions& options, int64_t ranks, int64_t tokens);
// What one of them reads: [T * K].
std::vector<int64_t> reads_of_rank(const RowSource& source, const ExchangeOptions& options, int64_t rank,
                                   int64_t tokens);

// results, one for each P: bytes_a_token by message, forward, backward, total; duplicates, imbalance (largest rank over
// mean; null where nothing is sent), the bytes expected of parts by rows and by columns and the fewer; memory_ms, and
// times {network, exchange_ms, bound_ms, ratio}.
nlohmann::json run_exchange(const BenchOptions& options);
std::string exchange_text(const nlohmann::json& report);

}  // namespace loci::bench
