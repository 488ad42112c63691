// How fast the operators are on this machine: `loci bench`.
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace loci {

struct BenchOptions {
  std::vector<std::string> names;  // of bench_names(); empty: all
  bool json = false;
  int repeats = 7;  // at least 1; the median and the spread are over these
};

const std::vector<std::string>& bench_names();

// Times the named operators and their definitions, interleaved, beside the machine's own speed measured in the same
// run, and writes a table or JSON. Returns 0; throws Error (usage) for an unknown name.
int run_benchmarks(const BenchOptions& options, std::ostream& out);

}  // namespace loci
