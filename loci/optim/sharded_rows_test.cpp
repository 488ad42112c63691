// Row optimisers of a table in parts on several ranks.
//
// Legend: T tokens, K reads of a token, N rows, D width.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "loci/optim/optimizer_set.h"
#include "loci/optim/row_optimizer.h"
#include "tests/ranks.h"
#include "tests/sharded_rows.h"
#include "tests/temporary_folder.h"

namespace loci::sharded_rows_test {
namespace {

using at::Tensor;

constexpr int64_t kRows = 50, kWidth = 21, kTokens = 40, kReads = 8;

struct Batch {
  Tensor index = torch::randint(kRows, {kTokens, kReads}, at::kLong);
  Tensor weight = torch::randn({kTokens, kReads});
  Tensor grad = torch::randn({kTokens, kWidth});
};

struct Form {
  at::ScalarType dtype;
  RowOptimizerOptions options;
  bool whole_rows() const { return options.rule == RowRule::adam_row_moment || options.rule == RowRule::adagrad; }
};

std::vector<Form> forms() {
  std::vector<Form> forms;
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {  // bfloat16 is rounded by chance
    for (const auto& [word, rule] : row_rule_words()) forms.push_back({dtype, {.rule = rule, .learning_rate = 1e-2}});
  }
  forms.push_back({at::kBFloat16, {.learning_rate = 1e-2, .rounding = RowRounding::master}});
  forms.push_back({at::kBFloat16, {.learning_rate = 1e-2, .moments = RowMoments::bfloat16}});
  forms.push_back({at::kFloat, {.learning_rate = 1e-2, .weight_decay = 0.1, .clip_norm = 2}});
  return forms;
}

void train(Table& table, const Form& form, OptimizerSet& optimizers, const Tensor& i, const Tensor& w,
           const Tensor& g) {
  const auto real = form.dtype == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t use = table.register_use();
  for (int step = 0; step < 3; ++step) {
    table.read(i, w.to(real), use).backward(g.to(real));
    optimizers.step(step, 3, 3);
  }
}

// The rows and state of three steps, by name.
std::vector<std::pair<std::string, Tensor>> trained(const TablePtr& table, const Form& form, const Batch& batch,
                                                    const Ranks& ranks) {
  OptimizerSet optimizers({}, {}, {{table, form.options}}, 5, ranks.size > 1 ? sum_over(ranks) : Reduce{});
  train(*table, form, optimizers, slice(batch.index, ranks), slice(batch.weight, ranks), slice(batch.grad, ranks));
  auto state = optimizers.rows_of(*table).row_state();
  state.emplace_back("values", table->store().values());
  return state;
}

void expect_part(const std::vector<std::pair<std::string, Tensor>>& here,
                 const std::vector<std::pair<std::string, Tensor>>& whole, const RowStore& store, bool bits) {
  ASSERT_EQ(here.size(), whole.size());
  for (size_t t = 0; t < here.size(); ++t) {
    const Tensor expected = part_of(whole[t].second, store);
    const bool same = bits ? torch::equal(here[t].second, expected)
                           : torch::allclose(here[t].second.to(at::kDouble), expected.to(at::kDouble), 1e-6, 1e-7);
    EXPECT_TRUE(same) << here[t].first << " " << expected.scalar_type();
  }
}

class ShardedRows : public testing::TestWithParam<std::tuple<TableParts, int64_t, bool>> {};

TEST_P(ShardedRows, EveryRuleWritesTheRowsThatOneProcessWrites) {
  const auto [parts, size, mapped] = GetParam();
  torch::manual_seed(4);
  const Batch batch;
  for (const Form& form : forms()) {
    const auto whole = std::make_shared<LocalTable>("memory", kRows, kWidth, LocalTableOptions{form.dtype});
    whole->store().initialise_normal(3, 1);
    const auto expected = trained(whole, form, batch, {});
    const TemporaryFolder folder;
    run_ranks(size, [&](const Ranks& ranks) {
      const auto files = mapped ? folder / std::to_string(ranks.rank) : std::filesystem::path();
      if (mapped) std::filesystem::create_directory(files);
      const auto table = make_sharded(ranks, kRows, kWidth, form.dtype, parts, files);
      const auto got = trained(table, form, batch, ranks);
      // Sums over the columns of several ranks, and over clipped rows of several ranks, are rounded apart.
      const bool sums = (form.whole_rows() && parts == TableParts::columns) || form.options.clip_norm > 0;
      expect_part(got, expected, table->store(), !sums);
    });
  }
}

std::string name_of_case(const testing::TestParamInfo<ShardedRows::ParamType>& info) {
  const auto& [parts, size, mapped] = info.param;
  return name_of(parts) + std::to_string(size) + (mapped ? "mapped" : "");
}

INSTANTIATE_TEST_SUITE_P(Parts, ShardedRows,
                         testing::Values(std::tuple(TableParts::rows, 3, false),
                                         std::tuple(TableParts::columns, 2, false),
                                         std::tuple(TableParts::columns, 3, false),
                                         std::tuple(TableParts::columns, 2, true)),
                         name_of_case);

// Alone, without an OptimizerSet: the ranks of a table in columns clip and skip alike.
TEST(ShardedColumns, OneRanksGradientThatIsNotFiniteSkipsAll) {
  torch::manual_seed(6);
  const Batch batch;
  for (const auto rule : {RowRule::adam, RowRule::adagrad}) {
    run_ranks(3, [&](const Ranks& ranks) {
      const auto table = make_sharded(ranks, kRows, kWidth, at::kFloat, TableParts::columns);
      RowOptimizer optimizer(table->store(), {.rule = rule}, 5);
      const Tensor before = table->store().values().clone();
      const int64_t use = table->register_use();
      Tensor grad = slice(batch.grad, ranks);
      if (ranks.rank == 1) grad[0][kWidth - 1] = std::numeric_limits<double>::infinity();  // a column of rank 2
      table->read(slice(batch.index, ranks), slice(batch.weight, ranks), use).backward(grad);
      const RowStep skipped = optimizer.step();
      EXPECT_TRUE(skipped.skipped);
      EXPECT_TRUE(torch::equal(table->store().values(), before));
      table->read(slice(batch.index, ranks), slice(batch.weight, ranks), use).backward(slice(batch.grad, ranks));
      EXPECT_FALSE(optimizer.step().skipped);
      EXPECT_FALSE(torch::equal(table->store().values(), before));
    });
  }
}

}  // namespace
}  // namespace loci::sharded_rows_test
