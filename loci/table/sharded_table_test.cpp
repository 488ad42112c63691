// Legend: T tokens, K reads of a token, N rows, D width, P ranks.
#include "loci/table/sharded_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/table/local_table.h"
#include "tests/ranks.h"
#include "tests/sharded_rows.h"
#include "tests/table_reads.h"

namespace loci {
namespace {

using at::Tensor;
using testing::HasSubstr;

struct Case {
  int64_t ranks;
  bool idle;
  at::ScalarType dtype;
  TableParts parts = TableParts::rows;
};

class ShardedParity : public testing::TestWithParam<Case> {};

TEST_P(ShardedParity, ReadsAndGradientsEqualThoseOfOneProcess) {
  const auto [size, idle, dtype, parts] = GetParam();
  const bool by_rows = parts == TableParts::rows;
  torch::manual_seed(2);
  const Batch batch;
  const Tensor x = torch::randn({kTokens, kWidth}), read_grad = torch::randn({kTokens, kReads});
  auto whole = make_table(dtype);
  const auto sum_dtype = whole->sum_dtype();
  const auto in = [&](const Tensor& t) { return t.to(sum_dtype); };
  Tensor weight = in(batch.weight).requires_grad_(), vector = in(x).requires_grad_();
  const int64_t use = whole->register_use();
  const Tensor out = whole->read(batch.index, weight, use), products = whole->project(batch.index, vector, use);
  torch::autograd::backward({out, products}, {in(batch.grad), in(read_grad)});
  const RowGradient expected = whole->store().references().sum();

  const double tolerance = sum_dtype == at::kDouble ? 1e-13 : 1e-5;
  run_ranks(size, [&](const Ranks& ranks) {
    const auto part = [&](const Tensor& t) { return slice(t, ranks, idle); };
    const auto table = make_sharded(ranks, kRows, kWidth, dtype, parts);
    EXPECT_EQ(table->rows(), kRows);
    EXPECT_EQ(table->width(), kWidth);
    EXPECT_TRUE(torch::equal(table->store().values(), part_of(whole->store().values(), table->store())));
    const int64_t here = table->register_use();
    Tensor w = part(weight.detach()).requires_grad_(), v = part(vector.detach()).requires_grad_();
    const Tensor read = table->read(part(batch.index), w, here), projected = table->project(part(batch.index), v, here);
    // By rows the sums of several rows are rounded apart, by columns those of several columns.
    const auto same = [&](const Tensor& got, const Tensor& wanted, bool bits) {
      return bits ? torch::equal(got, wanted) : torch::allclose(got, wanted, tolerance, tolerance);
    };
    EXPECT_TRUE(same(read, part(out.detach()), !by_rows));
    EXPECT_TRUE(same(projected, part(products.detach()), by_rows));
    torch::autograd::backward({read, projected}, {in(part(batch.grad)), in(part(read_grad))});
    EXPECT_TRUE(same(w.grad(), part(weight.grad()), by_rows));
    EXPECT_TRUE(same(v.grad(), part(vector.grad()), !by_rows));

    // The same bits: sums of references are made in the order of the whole batch.
    const RowGradient got = table->store().references().sum();
    const RowRange rows = {table->store().first_row(), table->store().rows_here()};
    const ColumnRange& columns = table->store().columns();
    const Tensor mine = expected.row.ge(rows.first).logical_and(expected.row.lt(rows.first + rows.count));
    EXPECT_TRUE(torch::equal(got.row + rows.first, expected.row.masked_select(mine)));
    const Tensor gradient = expected.gradient.narrow(1, columns.first, columns.count);
    EXPECT_TRUE(torch::equal(got.gradient, gradient.index_select(0, mine.nonzero().view(-1))));
  });
}

INSTANTIATE_TEST_SUITE_P(
    Ranks, ShardedParity,
    testing::Values(Case{1, false, at::kFloat}, Case{2, false, at::kFloat}, Case{3, false, at::kFloat},
                    Case{4, true, at::kFloat}, Case{3, true, at::kDouble}, Case{2, false, at::kBFloat16},
                    Case{2, false, at::kFloat, TableParts::columns}, Case{3, true, at::kDouble, TableParts::columns},
                    Case{4, true, at::kFloat, TableParts::columns}, Case{3, false, at::kBFloat16, TableParts::columns}),
    [](const auto& info) {
      return std::to_string(info.param.ranks) + (info.param.idle ? "_idle_" : "_") + toString(info.param.dtype) + "_" +
             name_of(info.param.parts);
    });

TEST(ShardedTable, FewerRowsThanRanks) {
  run_ranks(4, [](const Ranks& ranks) {
    const auto rows = std::make_shared<LocalRows>("memory", ShardedTable::equal_part(2, ranks), kWidth);
    rows->initialise_normal(3, 1);
    ShardedTable table(ranks, rows);
    const int64_t use = table.register_use();
    const Tensor index = torch::tensor({{0, 1}, {1, 1}});
    table.read(index, torch::ones({2, 2}), use).backward(torch::ones({2, kWidth}));
    EXPECT_EQ(table.rows(), 2);
    EXPECT_EQ(table.store().references().sum().row.numel(), ranks.rank < 2 ? 1 : 0);
  });
}

TEST(ShardedTable, AFrozenTableLeavesNoReferences) {
  run_ranks(2, [](const Ranks& ranks) {
    const auto table = make_sharded(ranks, kRows, kWidth);
    table->set_frozen(true);
    Tensor weight = torch::ones({1, 2}).requires_grad_();
    table->read(torch::tensor({{int64_t{0}, kRows - 1}}), weight, table->register_use()).sum().backward();
    EXPECT_TRUE(table->store().references().empty());
    EXPECT_GT(weight.grad().abs().sum().item<double>(), 0);
  });
}

void expect_usage(const std::string& part, const std::function<void(const Ranks&)>& program) {
  try {
    run_ranks(2, program);
    ADD_FAILURE() << "no error with: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(ShardedTable, PartsThatDoNotFitAreRefused) {
  expect_usage("rank 1: rows must begin at 10, got 12", [](const Ranks& ranks) {
    ShardedTable(ranks, std::make_shared<LocalRows>("memory", RowRange{ranks.rank * 12, 10}, kWidth));
  });
  expect_usage("rank 1: width and dtype must be those of rank 0, got width 7, dtype Float", [](const Ranks& ranks) {
    ShardedTable(ranks, std::make_shared<LocalRows>("memory", RowRange{ranks.rank * 10, 10}, kWidth + ranks.rank));
  });
}

TEST(ShardedTable, PartsByColumnsThatDoNotFitAreRefused) {
  const auto part = [](RowRange rows, ColumnRange columns, LocalTableOptions options = {}) {
    return std::make_shared<LocalRows>("memory", rows, columns, options);
  };
  expect_usage("rank 1: columns must begin at 3, got 4", [&](const Ranks& ranks) {
    ShardedTable(ranks, part({0, 5}, ranks.rank == 0 ? ColumnRange(0, 3, 6) : ColumnRange(4, 2, 6)));
  });
  expect_usage("parts must have 6 columns, got 5", [&](const Ranks& ranks) {
    ShardedTable(ranks, part({0, 5}, ranks.rank == 0 ? ColumnRange(0, 3, 6) : ColumnRange(3, 2, 6)));
  });
  expect_usage("rank 1: a part by columns must have all rows, got some",
               [&](const Ranks& ranks) { ShardedTable(ranks, part({0, 5 - ranks.rank}, {3 * ranks.rank, 3, 6})); });
  expect_usage("rank 1: parts must be by rows as on rank 0, got columns", [&](const Ranks& ranks) {
    ShardedTable(ranks, ranks.rank == 0 ? part({0, 5}, 6) : part({5, 5}, {3, 3, 6}));
  });
  expect_usage("columns must be at least as many as ranks, 2, got 1",
               [](const Ranks& ranks) { ShardedTable::equal_columns("memory", 1, ranks); });
  expect_usage("columns must be within 0 .. 5, got 3 from 4 on", [&](const Ranks&) { part({0, 5}, {4, 3, 6}); });
  expect_usage("int8 rows must be whole, got 3 of 6 columns",
               [&](const Ranks&) { part({0, 5}, {0, 3, 6}, {at::kChar}); });
}

TEST(ShardedTable, BadInputIsRefused) {
  run_ranks(1, [](const Ranks& ranks) {
    const auto table = make_sharded(ranks, kRows, kWidth);
    const int64_t use = table->register_use();
    expect_refusal("index must be within 0 .. 49, got 50",
                   [&] { table->read(torch::tensor({{50}}), torch::ones({1, 1}), use); });
    expect_refusal("index must be int64 [T, K]", [&] { table->read(torch::zeros({1, 1}), torch::ones({1, 1}), use); });
    expect_refusal("weight must be Float [1, 1], got Double",
                   [&] { table->read(torch::tensor({{5}}), torch::ones({1, 1}, at::kDouble), use); });
    expect_refusal("x must be Float [1, 6], got Float [1, 5]",
                   [&] { table->project(torch::tensor({{5}}), torch::ones({1, 5}), use); });
    expect_refusal("index must be within 0 .. 49, got -1", [&] { table->prefetch(torch::tensor({-1})); });
  });
}

}  // namespace
}  // namespace loci
