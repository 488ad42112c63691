// A memory layer over a table, as in the README.
#include <ATen/ATen.h>

#include <cstdio>
#include <memory>

#include "loci/base/cpu_level.h"
#include "loci/nn/memory/product_key_memory.h"
#include "loci/table/local_table.h"

int main() {
  auto table = std::make_shared<loci::LocalTable>("memory", /*rows=*/1 << 16, /*width=*/64);
  table->store().initialise_normal(/*seed=*/1, /*std=*/0.1);
  loci::ProductKeyMemoryOptions options;
  options.width = 64;
  auto memory = std::make_shared<loci::ProductKeyMemory>("memory", options, table, /*seed=*/1);
  at::Tensor y = memory->forward(at::randn({32, 64}));  // [T, d]
  y.sum().backward();                                   // row references at the table, gradients at the keys

  std::printf("read [%ld, %ld] at level %s\n", static_cast<long>(y.size(0)), static_cast<long>(y.size(1)),
              loci::name_of(loci::cpu_level()).data());
  return !table->store().references().empty() && memory->keys1.grad().defined() ? 0 : 1;
}
