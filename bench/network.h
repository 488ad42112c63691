// `loci bench network`: what collectives between ranks cost here, and what an exchange of reads costs beside the model
// that is fitted to them. Started by torchrun with two ranks or more.
//
// Legend: T tokens of a rank, K reads of a token, N rows, D width, P ranks.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "loci/distributed/collectives.h"
#include "loci/distributed/exchange_cost.h"

namespace loci::bench {

struct CollectiveTime {
  double bytes = 0;  // that a rank sends to all others together
  double seconds = 0;
};

// The latency and the bandwidth of collective_seconds() that fit best: least squares of relative errors. Needs times of
// two sizes or more.
Network fit_network(int64_t ranks, std::span<const CollectiveTime> times);

// Every rank calls it; all get the same: collectives {bytes, us, model_us}, network {latency_us, gigabits_per_second}
// as fitted, exchanges {rows, tokens, reads, width, bytes, ms, model_ms}: forward and backward, with the plan and
// without rows. A time is that of the slowest rank.
nlohmann::json measure_network(const Ranks& ranks, const BenchOptions& options);

// For a rank of torchrun; null for all but the first. Throws Error: usage without torchrun or with one rank, peer.
nlohmann::json run_network(const BenchOptions& options);
std::string network_text(const nlohmann::json& report);

}  // namespace loci::bench
