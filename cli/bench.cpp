// loci bench: how fast the operators are on this machine.
#include "bench/bench.h"

#include <fmt/ranges.h>

#include <limits>
#include <memory>
#include <sstream>

#include "cli/arguments.h"
#include "cli/output.h"
#include "cli/ranks.h"
#include "cli/verbs.h"
#include "loci/base/check.h"
#include "loci/train/text_table.h"

namespace loci::cli {

namespace {

void add_exchange(CLI::App& verb, ExchangeOptions& options) {
  const CLI::Validator positive = whole_number(1), above_0 = real_number(1e-9, 1e9);
  verb.add_option("--ranks", options.ranks, "For exchange: numbers of ranks (default: 1 2 8 64 512)")->check(positive);
  verb.add_option("--reads", options.reads, "For exchange, network: reads of a token (default: 128)")->check(positive);
  verb.add_option("--heads", options.heads,
                  "For exchange, network: heads that share these, each a row once (default: 4)")
      ->check(positive);
  auto* skew =
      verb.add_option("--skew", options.skew,
                      "For exchange, network: the r-th most popular row is read as r^-SKEW (default: 1; 0: all alike)");
  skew->check(real_number(0, 4));
  auto* counts =
      verb.add_option("--counts", options.counts, "For exchange: read as a trained run has; a folder step-N of it")
          ->excludes(skew);
  verb.add_option("--table", options.table, "For exchange: the table of --counts, where it has several")->needs(counts);
  verb.add_option("--shard", options.shard, "For exchange: parts by rows or columns, or auto (default: rows)")
      ->check(CLI::IsMember({"rows", "columns", "auto"}));
  auto* bandwidth =
      verb.add_option("--bandwidth", options.bandwidth, "For exchange: Gb/s of a rank, in place of the named networks");
  bandwidth->check(above_0);
  verb.add_option("--latency", options.latency, "For exchange: microseconds of a message (default: 0)")
      ->check(real_number(0, 1e9))
      ->needs(bandwidth);
  verb.add_option("--memory-bandwidth", options.memory_bandwidth, "For exchange: GB/s of a rank (default: 100)")
      ->check(above_0);
}

}  // namespace

void add_bench(CLI::App& program, Action& action) {
  auto* verb =
      program.add_subcommand("bench", "Time the operators next to their definitions and this machine's own speed");
  auto options = std::make_shared<BenchOptions>();
  const CLI::Validator positive = whole_number(1);
  verb->add_option("operator", options->names, "Some of the operators below (default: all)")
      ->check(CLI::IsMember(bench_names()).description(""));
  verb->add_option("--repeats", options->repeats, "Repeats of each case, of which the median is shown (default: 7)")
      ->check(whole_number(1, std::numeric_limits<int>::max()));
  verb->add_option(
          "--rows", options->rows,
          "Rows of the table (default for memory: 262144 1048576; memory_map, resnet: 4096; mapped: 512 MiB of "
          "values; exchange: 2^20)")
      ->check(positive);
  verb->add_option("--tokens", options->tokens,
                   "Tokens at once (default for memory: 4096 512 1; memory_map: 8192; exchange: 1024), queries "
                   "(pairwise: 49 196 784 3136)")
      ->check(positive);
  verb->add_option("--width", options->widths,
                   "Width of models (default for memory: 512), maps (memory_map: 64), rows (mapped: 2048 64; "
                   "exchange: 1024), pairs (pairwise: 256)")
      ->check(positive);
  verb->add_flag_function(
      "--no-bfloat16", [options](int64_t) { options->bfloat16 = false; },
      "For memory: no bfloat16 rows; for resnet: no autocast");
  verb->add_flag_function(
      "--no-stock", [options](int64_t) { options->stock = false; },
      "For memory and memory_map: without stock LibTorch; for pairwise: without rivals");
  add_exchange(*verb, options->exchange);
  verb->add_flag("--json", options->json, "Print JSON");
  verb->footer("Operators:\n" + wrapped(fmt::format("  {}", fmt::join(bench_names(), ", ")), 2) +
               "\nExamples:\n  loci bench\n  loci bench search read --json\n"
               "  loci bench mapped\n  loci bench exchange --ranks 2 8 --tokens 128\n  torchrun --nproc-per-node 2 "
               "--no-python loci bench "
               "network\n  loci bench memory --rows 4096 "
               "65536 1048576 --tokens 2048 --width 256");
  verb->callback([options, &action] {
    action = [options] {
      if (one_of_several_ranks() && options->names != std::vector<std::string>{"network"}) {
        fail(ExitCode::usage, "torchrun", "the benchmark must be network on several ranks (WORLD_SIZE)",
             fmt::format("{}", fmt::join(options->names.empty() ? bench_names() : options->names, " ")));
      }
      std::ostringstream out;
      run_benchmarks(*options, out);
      print(out.str());
    };
  });
}

}  // namespace loci::cli
