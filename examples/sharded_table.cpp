// A table whose rows are on several processes: rows learn to sum to given targets.
//
//   torchrun --nproc-per-node 2 --no-python sharded_table [STEPS [SECONDS]]
//
// STEPS: default 20. SECONDS to wait for the others before the run fails: default 30. Without torchrun: one process.
#include <torch/torch.h>

#include <cstdio>
#include <memory>
#include <string>

#include "loci/base/check.h"
#include "loci/distributed/collectives.h"
#include "loci/distributed/process_group.h"
#include "loci/optim/row_optimizer.h"
#include "loci/table/local_table.h"
#include "loci/table/sharded_table.h"

namespace {

void train(const loci::Ranks& ranks, int64_t steps) {
  const int64_t rows = 1000, width = 16, batch = 256, reads = 4;
  // The rows of this process. They start with the same numbers for any number of processes.
  const auto here = std::make_shared<loci::LocalRows>("memory", loci::ShardedTable::equal_part(rows, ranks), width);
  here->initialise_normal(/*seed=*/1, /*std=*/0.1);
  loci::ShardedTable table(ranks, here);
  loci::RowOptimizer optimizer(table.store(), {.learning_rate = 3e-2}, /*seed=*/1);
  const int64_t use = table.register_use();

  torch::manual_seed(1);  // the same batches everywhere; each process computes its slice
  const torch::Tensor wanted = torch::randn({rows, width});
  const torch::Tensor ones = torch::ones({batch, reads});
  for (int64_t step = 0; step < steps; ++step) {
    const torch::Tensor index = torch::randint(rows, {batch, reads}, torch::kLong);
    const torch::Tensor target = wanted.index_select(0, index.view(-1)).view({batch, reads, width}).sum(1);
    const int64_t begin = batch * ranks.rank / ranks.size, end = batch * (ranks.rank + 1) / ranks.size;
    const torch::Tensor sums = table.read(index.slice(0, begin, end), ones.slice(0, begin, end), use);
    const torch::Tensor loss = (sums - target.slice(0, begin, end)).square().sum() / (batch * width);
    loss.backward();
    optimizer.step();  // gradients of all ranks are summed already: the loss is a sum over them too

    const torch::Tensor whole = loss.detach().to(torch::kDouble).view({1});
    loci::sum_over(ranks)({whole});
    if (ranks.rank == 0) {
      std::printf("step %2lld loss %.5f\n", static_cast<long long>(step), whole.item<double>());
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int64_t steps = argc > 1 ? std::stoll(argv[1]) : 20;
    const auto timeout = std::chrono::seconds(argc > 2 ? std::stoll(argv[2]) : 30);
    if (!loci::has_rank()) {
      train({}, steps);
    } else {
      const loci::ProcessGroup group(timeout);
      train(group.ranks(), steps);
    }
  } catch (const loci::Error& error) {
    std::fprintf(stderr, "sharded_table: %s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
