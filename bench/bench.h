// How fast the operators and the layer are on this machine: `loci bench`.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace loci {

// For `exchange` and `network`, whose rows, tokens and width are those of BenchOptions.
struct ExchangeOptions {
  std::vector<int64_t> ranks = {1, 2, 8, 64, 512};
  int64_t reads = 128;         // of a token
  int64_t heads = 4;           // a head reads a row once at most
  double skew = 1;             // of Zipf's law
  std::string counts = {};     // a checkpoint folder whose reads are drawn from, in place of Zipf's law
  std::string table = {};      // of that checkpoint
  std::string shard = "rows";  // "rows" | "columns" | "auto": the one that sends fewer bytes
  // Both above 0: this network in place of the named ones. Microseconds, Gb/s, GB/s.
  double latency = 0, bandwidth = 0, memory_bandwidth = 100;
};

struct BenchOptions {
  std::vector<std::string> names = {};  // of bench_names(); empty: all
  bool json = false;
  int repeats = 7;  // at least 1; the median and the spread are over these
  // For `memory`, `memory_map`, `resnet`, `pairwise` and `mapped`: every combination of these (empty: a default list),
  // and whether bfloat16 rows are measured too.
  std::vector<int64_t> rows = {}, tokens = {}, widths = {};
  bool bfloat16 = true;
  bool stock = true;  // the stock composition beside it, where its table fits
  ExchangeOptions exchange = {};
};

const std::vector<std::string>& bench_names();

// Times the named operators and their definitions (`memory`: whole layers and the same from stock LibTorch operators;
// `memory_map`: on feature maps, and a convolution; `resnet`: in a network; `pairwise`: non-local operators and blocks;
// `mapped`: rows in files with and without prefetch; `exchange` is simulated; `network`: between the
// ranks of torchrun), interleaved, beside the machine's own
// speed measured in the same run, and writes a table or JSON. Returns 0; throws Error (usage) for an unknown name.
int run_benchmarks(const BenchOptions& options, std::ostream& out);

}  // namespace loci
