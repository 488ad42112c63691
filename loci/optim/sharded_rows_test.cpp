// Row optimisers of a table whose rows are on several ranks.
//
// Legend: T tokens, K reads of a token, N rows, D width.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/optim/row_optimizer.h"
#include "tests/ranks.h"
#include "tests/sharded_rows.h"

namespace loci {
namespace {

using at::Tensor;

TEST(ShardedRows, EveryRuleWritesTheRowsThatOneProcessWrites) {
  torch::manual_seed(4);
  const int64_t rows = 50, width = 6;
  const Tensor index = torch::randint(rows, {40, 8}, at::kLong), weight = torch::randn({40, 8});
  const Tensor grad = torch::randn({40, width});
  const auto train = [](Table& table, RowOptimizer& optimizer, const Tensor& i, const Tensor& w, const Tensor& g) {
    const int64_t use = table.register_use();
    for (int step = 0; step < 3; ++step) {
      table.read(i, w, use).backward(g);
      optimizer.step(3);
    }
  };
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {  // bfloat16 is rounded by chance
    for (const auto& [word, rule] : row_rule_words()) {
      const RowOptimizerOptions options = {.rule = rule, .learning_rate = 1e-2};
      LocalTable whole("memory", rows, width, {dtype});
      whole.store().initialise_normal(3, 1);
      RowOptimizer optimizer(whole.store(), options, 5);
      train(whole, optimizer, index, weight, grad);
      run_ranks(3, [&](const Ranks& ranks) {
        const auto table = make_sharded(ranks, rows, width, dtype);
        RowOptimizer local(table->store(), options, 5);
        train(*table, local, slice(index, ranks), slice(weight, ranks), slice(grad, ranks));
        const RowRange part = ShardedTable::equal_part(rows, ranks);
        EXPECT_TRUE(torch::equal(table->store().values(), whole.store().values().narrow(0, part.first, part.count)))
            << word;
      });
    }
  }
}

}  // namespace
}  // namespace loci
