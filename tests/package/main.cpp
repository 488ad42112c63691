// Finds the best rows for random queries and reads them from a table.
#include <ATen/ATen.h>

#include <cstdio>
#include <memory>

#include "loci/base/cpu_level.h"
#include "loci/ops/product_key_search/product_key_search.h"
#include "loci/table/local_table.h"

int main() {
  const int64_t tokens = 5, heads = 2, half = 8, sub_keys = 16, top_k = 4, width = 32;
  auto table = std::make_shared<loci::LocalTable>("memory", sub_keys * sub_keys, width);
  table->initialise_normal(/*seed=*/1, /*std=*/0.1);
  const auto [score, index] =
      loci::product_key_search(at::randn({tokens, heads, 2, half}), at::randn({heads, sub_keys, half}),
                               at::randn({heads, sub_keys, half}), top_k, table->rows());  // [T, H, K]
  const at::Tensor weight = score.softmax(-1);
  const at::Tensor out =
      table->read(index.reshape({tokens, heads * top_k}), weight.reshape({tokens, heads * top_k}), table->register_use());
  std::printf("read [%ld, %ld] at level %s\n", static_cast<long>(out.size(0)), static_cast<long>(out.size(1)),
              loci::name_of(loci::cpu_level()).data());
  return out.abs().sum().item<float>() > 0 ? 0 : 1;
}
