// How fast the operators and the layer are on this machine: `loci bench`.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace loci {

struct BenchOptions {
  std::vector<std::string> names = {};  // of bench_names(); empty: all
  bool json = false;
  int repeats = 7;  // at least 1; the median and the spread are over these
  // For `memory`, `memory_map`, `resnet`, `pairwise` and `mapped`: every combination of these (empty: a default list),
  // and whether bfloat16 rows are measured too.
  std::vector<int64_t> rows = {}, tokens = {}, widths = {};
  bool bfloat16 = true;
  bool stock = true;  // the stock composition beside it, where its table fits
};

const std::vector<std::string>& bench_names();

// Times the named operators and their definitions (`memory`: whole layers and the same from stock LibTorch operators;
// `memory_map`: on feature maps, and a convolution; `resnet`: in a network; `pairwise`: non-local operators and blocks;
// `mapped`: rows in files with and without prefetch), interleaved, beside the machine's own speed measured in the same
// run, and writes a table or JSON. Returns 0; throws Error (usage) for an unknown name.
int run_benchmarks(const BenchOptions& options, std::ostream& out);

}  // namespace loci
