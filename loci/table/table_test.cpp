// Legend: T tokens, K reads of a token, N rows, D width, U distinct rows.
#include "loci/table/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/ops/table_read/table_read.h"
#include "loci/table/local_table.h"
#include "tests/table_reads.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using at::Tensor;

TEST(Table, ReferencesSumToTheDenseGradientOfTheDefinition) {
  torch::manual_seed(1);
  auto table = make_table(at::kDouble);
  Batch batch;
  const Tensor weight = batch.weight.to(at::kDouble).requires_grad_();
  const Tensor grad = batch.grad.to(at::kDouble);
  table->read(batch.index, weight, table->register_use()).backward(grad);
  EXPECT_FALSE(table->store().references().empty());

  const Tensor values = table->store().values().detach().clone().requires_grad_();
  const Tensor other = weight.detach().clone().requires_grad_();
  (values.index_select(0, batch.index.reshape(-1)).view({kTokens, kReads, kWidth}) * other.unsqueeze(2))
      .sum(1)
      .backward(grad);
  EXPECT_TRUE(torch::allclose(dense_gradient(*table), values.grad(), 1e-13, 1e-13));
  EXPECT_TRUE(torch::allclose(weight.grad(), other.grad(), 1e-13, 1e-13));
}

TEST(Table, ProjectGivesTheInnerProductsWithAllGradients) {
  torch::manual_seed(2);
  auto table = make_table(at::kDouble);
  const Tensor index = torch::randint(0, kRows, {kTokens, kReads}, at::kLong);
  const Tensor grad = torch::randn({kTokens, kReads}, at::kDouble);
  const Tensor x = torch::randn({kWidth, kTokens}, at::kDouble).t().requires_grad_();  // not contiguous
  const Tensor out = table->project(index, x, table->register_use());
  out.backward(grad);

  const Tensor values = table->store().values().detach().clone().requires_grad_();
  const Tensor other = x.detach().clone().requires_grad_();
  const Tensor rows = values.index_select(0, index.reshape(-1)).view({kTokens, kReads, kWidth});
  const Tensor expected = (rows * other.unsqueeze(1)).sum(2);
  expected.backward(grad);
  EXPECT_TRUE(torch::allclose(out, expected, 1e-13, 1e-13));
  EXPECT_TRUE(torch::allclose(x.grad(), other.grad(), 1e-13, 1e-13));
  EXPECT_TRUE(torch::allclose(dense_gradient(*table), values.grad(), 1e-13, 1e-13));
}

TEST(Table, KnowsTheDtypeOfItsSums) {
  EXPECT_EQ(make_table()->sum_dtype(), at::kFloat);
  EXPECT_EQ(make_table(at::kBFloat16)->sum_dtype(), at::kFloat);
  EXPECT_EQ(make_table(at::kBFloat16)->dtype(), at::kBFloat16);
  EXPECT_EQ(make_table(at::kDouble)->sum_dtype(), at::kDouble);
  EXPECT_EQ(make_table()->device(), at::Device(at::kCPU));
}

TEST(Table, ReadEqualsTheOperatorAndLeavesNothingWithoutAutograd) {
  torch::manual_seed(4);
  auto table = make_table();
  const int64_t use = table->register_use();
  Batch batch;
  const Tensor wanted = table_read(table->store().values().detach(), batch.index, batch.weight);
  {
    const torch::NoGradGuard guard;
    EXPECT_TRUE(torch::equal(table->read(batch.index, batch.weight.requires_grad_(), use), wanted));
  }
  {
    const c10::InferenceMode guard;
    EXPECT_TRUE(torch::equal(table->read(batch.index, batch.weight, use), wanted));
  }
  EXPECT_TRUE(table->store().references().empty());
  EXPECT_TRUE(torch::equal(table->read(batch.index, batch.weight, use), wanted));
}

TEST(Table, BackwardReachesTheRowsWhenTheWeightNeedsNoGradient) {
  torch::manual_seed(5);
  auto table = make_table();
  const Batch batch;
  const Tensor out = table->read(batch.index, batch.weight, table->register_use());
  EXPECT_TRUE(out.requires_grad());
  out.backward(batch.grad);
  EXPECT_FALSE(table->store().references().empty());
  EXPECT_FALSE(table->store().values().grad().defined());
  EXPECT_FALSE(batch.weight.grad().defined());
}

TEST(Table, AFrozenTableStillGivesWeightsAndInputsTheirGradients) {
  torch::manual_seed(6);
  auto table = make_table(), frozen = make_table();
  frozen->set_frozen(true);
  EXPECT_TRUE(frozen->frozen());
  const int64_t use = table->register_use();
  frozen->register_use();
  const Batch batch;
  const auto gradient = [&](Table& t, bool project) {
    Tensor input = project ? batch.grad.clone().requires_grad_() : batch.weight.clone().requires_grad_();
    if (project) {
      t.project(batch.index, input, use).backward(batch.weight);
    } else {
      t.read(batch.index, input, use).backward(batch.grad);
    }
    return input.grad();
  };
  for (const bool project : {false, true}) {
    const Tensor found = gradient(*frozen, project);
    EXPECT_GT(found.abs().sum().item<double>(), 0);
    EXPECT_TRUE(torch::equal(gradient(*table, project), found));
  }
  EXPECT_TRUE(frozen->store().references().empty());
  EXPECT_FALSE(frozen->store().values().requires_grad());
  frozen->set_frozen(false);
  gradient(*frozen, true);
  EXPECT_TRUE(torch::equal(dense_gradient(*frozen), [&] {
    table->store().references().clear();
    gradient(*table, true);
    return dense_gradient(*table);
  }()));
}

TEST(Table, FrozenBetweenForwardAndBackwardItGetsNoReferences) {
  auto table = make_table();
  const Batch batch;
  const Tensor out = table->read(batch.index, batch.weight.clone().requires_grad_(), table->register_use());
  table->set_frozen(true);
  out.sum().backward();
  EXPECT_TRUE(table->store().references().empty());
}

TEST(Table, FreezingDropsPendingReferences) {
  auto table = make_table();
  const Batch batch;
  table->read(batch.index, batch.weight, table->register_use()).sum().backward();
  EXPECT_FALSE(table->store().references().empty());
  table->set_frozen(true);
  table->set_frozen(false);
  EXPECT_TRUE(table->store().references().empty());
}

TEST(Table, SharedByThreeUsesIsTheSumOfTheUses) {
  torch::manual_seed(7);
  const std::vector<Batch> batches(3);
  Tensor sum = torch::zeros({kRows, kWidth}, at::kDouble);
  auto shared = make_table();
  Tensor loss = torch::zeros({});
  for (const Batch& batch : batches) {
    auto own = make_table();
    own->read(batch.index, batch.weight, own->register_use()).backward(batch.grad);
    sum += dense_gradient(*own).to(at::kDouble);
    loss = loss + (shared->read(batch.index, batch.weight, shared->register_use()) * batch.grad).sum();
  }
  loss.backward();
  EXPECT_TRUE(torch::allclose(dense_gradient(*shared).to(at::kDouble), sum, 1e-5, 1e-5));
}

TEST(Table, TwoTablesOfOneNameDoNotMeet) {
  torch::manual_seed(11);
  auto a = make_table(), b = make_table();
  const Batch batch;
  a->read(batch.index, batch.weight, a->register_use()).backward(batch.grad);
  EXPECT_FALSE(a->store().references().empty());
  EXPECT_TRUE(b->store().references().empty());
  a->store().values().data().fill_(1);
  EXPECT_FALSE(torch::equal(a->store().values(), b->store().values()));
}

TEST(Table, SecondDerivativesAreRefusedByName) {
  auto table = make_table();
  const Batch batch;
  const Tensor weight = batch.weight.clone().requires_grad_(), x = batch.grad.clone().requires_grad_();
  const int64_t use = table->register_use();
  const auto refused = [](const std::string& who, const Tensor& out, const Tensor& input) {
    const Tensor grad = torch::autograd::grad({out.sum()}, {input}, {}, true, /*create_graph=*/true)[0];
    ASSERT_TRUE(grad.requires_grad());
    expect_refusal(who + ": a second derivative is not implemented", [&] { grad.square().sum().backward(); });
  };
  refused("Table::read", table->read(batch.index, weight, use), weight);
  refused("Table::project", table->project(batch.index, x, use), x);
}

TEST(Table, RowsChangedBetweenForwardAndBackwardAreRefused) {
  auto table = make_table();
  RowStore& rows = table->store();
  const Batch batch;
  const int64_t use = table->register_use();
  const Tensor row = torch::tensor({4}, at::kLong);
  // A write through a pointer, of which the framework knows nothing.
  const auto poke = [&] { rows.values().mutable_data_ptr<float>()[4 * kWidth] = 1; };
  const std::vector<std::function<void()>> writes = {
      [&] { rows.initialise_zero(); }, [&] { rows.initialise_normal(1, 1); }, [&] { rows.write_rows(row, poke); },
      [&] { rows.write_all(poke); }, [&] { rows.set_rows(7, torch::ones({1, kWidth})); }};
  for (const auto& write : writes) {
    const Tensor read = table->read(batch.index, batch.weight.clone().requires_grad_(), use);
    const Tensor products = table->project(batch.index, batch.grad.clone().requires_grad_(), use);
    write();
    expect_refusal("modified by an inplace operation", [&] { read.sum().backward(); });
    expect_refusal("modified by an inplace operation", [&] { products.sum().backward(); });
  }
}

// docs/tables.md: an update without RowOptimizer.
TEST(Table, ARuleOfOnesOwnChangesAndMarksTheRowsThatWereRead) {
  auto table = make_table();
  RowStore& rows = table->store();
  rows.clear_changed_rows();
  const Tensor before = rows.values().detach().clone(), index = torch::tensor({{7, 3}, {7, 9}});
  table->read(index, torch::ones({2, 2}), table->register_use()).sum().backward();
  const RowGradient sum = rows.references().sum();
  rows.write_rows(sum.row, [&] { rows.values().detach().index_add_(0, sum.row, sum.gradient, -0.5); });
  rows.references().clear();
  EXPECT_THAT(rows.changed_rows().rows(), testing::ElementsAre(3, 7, 9));
  Tensor expected = before.clone();
  expected[3] -= 0.5;
  expected[7] -= 1;
  expected[9] -= 0.5;
  EXPECT_TRUE(torch::equal(rows.values(), expected));
}

// In-place operators of the framework, of which write_rows() is not told.
TEST(Table, AnInPlaceWriteOfTheValuesMarksEveryRow) {
  auto table = make_table();
  RowStore& rows = table->store();
  const Tensor row = torch::tensor({3});
  for (const bool before_rows_are_written : {false, true}) {
    rows.clear_changed_rows();
    rows.values().detach().add_(1);
    if (before_rows_are_written) rows.write_rows(row, [] {});
    EXPECT_TRUE(rows.changed_rows().all());
  }
  rows.clear_changed_rows();
  rows.write_rows(row, [] {});
  EXPECT_THAT(rows.changed_rows().rows(), testing::ElementsAre(3));
}

TEST(Table, WritesOutsideTheRowsAreRefused) {
  auto table = make_table();
  for (const int64_t bad : {int64_t{-1}, kRows}) {
    expect_refusal("rows must be within 0 .. 49, got " + std::to_string(bad), [&] {
      table->store().write_rows(torch::tensor({int64_t{3}, bad}), [] { ADD_FAILURE() << "written"; });
    });
  }
}

TEST(Table, AUseThatWasNotRegisteredIsRefused) {
  auto table = make_table();
  const Batch batch;
  expect_error(ExitCode::bug, "use must come from register_use, got 0",
               [&] { table->read(batch.index, batch.weight, 0); });
  expect_error(ExitCode::bug, "use must come from register_use, got 0",
               [&] { table->project(batch.index, batch.grad, 0); });
}

}  // namespace
}  // namespace loci
