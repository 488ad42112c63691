#include <gtest/gtest.h>

#include "loci/nn/memory/product_key_memory.h"
#include "loci/table/local_table.h"
#include "tests/op_harness.h"

namespace loci::query_net_test {
namespace {

using torch::Tensor;

// In whole numbers all products are exact, so that the ways of one token and of many must agree in bits.
TEST(QueryNet, OneTokenOfAMemoryWithoutGradientHasTheBitsOfABatch) {
  torch::manual_seed(3);
  const auto table = std::make_shared<LocalTable>("values", 49, 32, LocalTableOptions{});
  table->store().initialise_normal(1, 1);
  ProductKeyMemoryOptions options;
  options.width = 32;
  options.heads = 2;
  options.top_k = 5;
  options.key_width = 16;
  options.query_norm = QueryNorm::none;
  ProductKeyMemory memory("memory", options, table, 2);
  const torch::NoGradGuard no_gradient;
  for (auto& parameter : memory.parameters()) parameter.copy_(torch::randint(-2, 3, parameter.sizes(), torch::kFloat));
  const Tensor x = torch::randint(-2, 3, {9, 32}, torch::kFloat);
  const MemoryReads all = memory.read_with_indices(x);
  for (int64_t t = 0; t < 9; ++t) {
    const MemoryReads one = memory.read_with_indices(x.narrow(0, t, 1));
    EXPECT_TRUE(torch::equal(one.index, all.index.narrow(0, t, 1)));
    EXPECT_TRUE(harness::same_bits(one.output, all.output.narrow(0, t, 1)));
  }
}

}  // namespace
}  // namespace loci::query_net_test
