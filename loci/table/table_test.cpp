// Legend: T tokens, K reads of a token, N rows, D width, U distinct rows.
#include "loci/table/table.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "loci/ops/table_read/table_read.h"
#include "loci/table/local_table.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kRows = 50, kWidth = 6, kTokens = 40, kReads = 8;

std::shared_ptr<LocalTable> make_table(GradientMode mode = GradientMode::references,
                                       at::ScalarType dtype = at::kFloat) {
  auto table = std::make_shared<LocalTable>("memory", kRows, kWidth, LocalTableOptions{dtype});
  table->initialise_normal(3, 1);
  table->set_gradient_mode(mode);
  return table;
}

struct Batch {
  Tensor index = torch::randint(0, kRows, {kTokens, kReads}, at::kLong);
  Tensor weight = torch::randn({kTokens, kReads});
  Tensor grad = torch::randn({kTokens, kWidth});  // of the output
};

// What backward leaves, as [N, D], whatever the mode.
Tensor dense_gradient(const Table& table) {
  if (table.gradient_mode() == GradientMode::references) {
    EXPECT_FALSE(table.values().grad().defined());
    const RowGradient sum = table.gradient();
    return torch::zeros({table.rows(), table.width()}, sum.gradient.options()).index_copy_(0, sum.row, sum.gradient);
  }
  const Tensor grad = table.values().grad();
  EXPECT_EQ(grad.is_sparse(), table.gradient_mode() == GradientMode::coalesced);
  if (!grad.is_sparse()) return grad;
  EXPECT_TRUE(grad.is_coalesced());
  return grad.to_dense();
}

TEST(Table, ReferencesSumToTheDenseGradientOfTheDefinition) {
  torch::manual_seed(1);
  auto table = make_table(GradientMode::references, at::kDouble);
  Batch batch;
  const Tensor weight = batch.weight.to(at::kDouble).requires_grad_();
  const Tensor grad = batch.grad.to(at::kDouble);
  table->read(batch.index, weight, table->register_use()).backward(grad);
  EXPECT_TRUE(table->has_gradient());

  const Tensor values = table->values().detach().clone().requires_grad_();
  const Tensor other = weight.detach().clone().requires_grad_();
  (values.index_select(0, batch.index.reshape(-1)).view({kTokens, kReads, kWidth}) * other.unsqueeze(2))
      .sum(1)
      .backward(grad);
  EXPECT_TRUE(torch::allclose(dense_gradient(*table), values.grad(), 1e-13, 1e-13));
  EXPECT_TRUE(torch::allclose(weight.grad(), other.grad(), 1e-13, 1e-13));
}

TEST(Table, EveryGradientModeHasTheSameBits) {
  torch::manual_seed(2);
  const Batch first, second;
  std::vector<Tensor> found;
  for (const auto mode : {GradientMode::references, GradientMode::coalesced, GradientMode::dense}) {
    auto table = make_table(mode);
    const int64_t use0 = table->register_use(), use1 = table->register_use();
    for (const Batch& batch : {first, second}) {
      const Tensor y0 = table->read(batch.index, batch.weight, use0);
      const Tensor y1 = table->read(batch.index.flip(0), batch.weight, use1);
      (y0 * batch.grad + y1 * batch.grad.flip(1)).sum().backward();
    }
    found.push_back(dense_gradient(*table));
  }
  EXPECT_TRUE(torch::equal(found[0], found[1]));
  EXPECT_TRUE(torch::equal(found[0], found[2]));
}

TEST(Table, ATorchOptimiserWorksWithTheDenseMode) {
  for (const bool set_to_none : {true, false}) {
    torch::manual_seed(3);
    auto table = make_table(GradientMode::dense);
    const int64_t use = table->register_use();
    Tensor plain = table->values().detach().clone().requires_grad_();
    torch::optim::Adam ours({table->values()}, 0.1), theirs({plain}, 0.1);
    for (int step = 0; step < 3; ++step) {
      ours.zero_grad(set_to_none);
      theirs.zero_grad(set_to_none);
      for (int micro = 0; micro < 2; ++micro) {
        const Batch batch;
        table->read(batch.index, batch.weight, use).backward(batch.grad);
        (plain.index_select(0, batch.index.reshape(-1)).view({kTokens, kReads, kWidth}) * batch.weight.unsqueeze(2))
            .sum(1)
            .backward(batch.grad);
      }
      EXPECT_TRUE(torch::allclose(table->values().grad(), plain.grad(), 1e-4, 1e-4));
      ours.step();
      theirs.step();
    }
    EXPECT_LT((table->values() - plain).abs().max().item<double>(), 1e-3);
  }
}

TEST(Table, ReadEqualsTheOperatorAndLeavesNothingWithoutAutograd) {
  torch::manual_seed(4);
  auto table = make_table();
  const int64_t use = table->register_use();
  Batch batch;
  const Tensor wanted = table_read(table->values().detach(), batch.index, batch.weight);
  {
    const torch::NoGradGuard guard;
    EXPECT_TRUE(torch::equal(table->read(batch.index, batch.weight.requires_grad_(), use), wanted));
  }
  {
    const c10::InferenceMode guard;
    EXPECT_TRUE(torch::equal(table->read(batch.index, batch.weight, use), wanted));
  }
  EXPECT_FALSE(table->has_gradient());
  EXPECT_TRUE(torch::equal(table->read(batch.index, batch.weight, use), wanted));
}

TEST(Table, BackwardReachesTheRowsWhenTheWeightNeedsNoGradient) {
  torch::manual_seed(5);
  auto table = make_table();
  const Batch batch;
  const Tensor out = table->read(batch.index, batch.weight, table->register_use());
  EXPECT_TRUE(out.requires_grad());
  out.backward(batch.grad);
  EXPECT_TRUE(table->has_gradient());
  EXPECT_FALSE(table->values().grad().defined());
  EXPECT_FALSE(batch.weight.grad().defined());
}

TEST(Table, AFrozenTableStillGivesTheWeightItsGradient) {
  torch::manual_seed(6);
  auto table = make_table(), frozen = make_table(GradientMode::none);
  const int64_t use = table->register_use();
  frozen->register_use();
  const Batch batch;
  const Tensor a = batch.weight.clone().requires_grad_(), b = batch.weight.clone().requires_grad_();
  table->read(batch.index, a, use).backward(batch.grad);
  frozen->read(batch.index, b, use).backward(batch.grad);
  EXPECT_TRUE(torch::equal(a.grad(), b.grad()));
  EXPECT_FALSE(frozen->has_gradient());
  EXPECT_FALSE(frozen->values().requires_grad());
}

TEST(Table, RowsThatAreNotTrainedGetNoReferences) {
  for (const GradientMode mode : {GradientMode::references, GradientMode::dense}) {
    torch::manual_seed(2);
    auto table = make_table(mode), other = make_table(mode);
    const int64_t use = table->register_use(), other_use = other->register_use();
    const Batch batch;
    Tensor mask = torch::zeros({kRows}, at::kBool);
    mask.index_fill_(0, torch::tensor({3, 17, 40}), true);
    table->set_trained_rows(mask);
    mask.fill_(true);  // the table keeps its own
    const auto pass = [&](Table& t, int64_t u) {
      Tensor weight = batch.weight.clone().requires_grad_();
      t.read(batch.index, weight, u).backward(batch.grad);
      return weight.grad();
    };
    EXPECT_TRUE(torch::equal(pass(*table, use), pass(*other, other_use)));  // weights learn as before
    Tensor expected = torch::zeros({kRows, kWidth});
    const Tensor all = dense_gradient(*other), kept = torch::tensor({3, 17, 40});
    expected.index_copy_(0, kept, all.index_select(0, kept));
    EXPECT_TRUE(torch::equal(dense_gradient(*table), expected));
    EXPECT_GT(expected.abs().sum().item<double>(), 0);
    if (mode == GradientMode::references) {
      EXPECT_TRUE(torch::equal(table->gradient().row, kept));
    }

    table->zero_gradient();
    table->set_trained_rows({});
    pass(*table, use);
    EXPECT_TRUE(torch::equal(dense_gradient(*table), all));
  }
  EXPECT_THROW(make_table()->set_trained_rows(torch::ones({kRows - 1}, at::kBool)), c10::Error);
  EXPECT_THROW(make_table()->set_trained_rows(torch::ones({kRows})), c10::Error);
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

TEST(Table, TheOrderOfArrivalDoesNotChangeTheSum) {
  torch::manual_seed(8);
  std::vector<RowReferences> references;
  for (int64_t pass = 0; pass < 3; ++pass) {
    for (int64_t use = 0; use < 3; ++use) {
      const Batch batch;
      references.push_back({batch.index, batch.weight, batch.grad, pass, use});
    }
  }
  const RowGradient wanted = sum_references(references, kWidth);
  std::reverse(references.begin(), references.end());
  const RowGradient reversed = sum_references(references, kWidth);
  EXPECT_TRUE(torch::equal(wanted.row, reversed.row));
  EXPECT_TRUE(torch::equal(wanted.gradient, reversed.gradient));
}

TEST(Table, TwoHalfBatchesGiveTheBitsOfOneBatch) {
  torch::manual_seed(9);
  const Batch batch;
  auto whole = make_table(), halves = make_table();
  const int64_t use = whole->register_use();
  halves->register_use();
  whole->read(batch.index, batch.weight, use).backward(batch.grad);
  for (const int64_t begin : {int64_t{0}, kTokens / 2}) {
    const auto half = [begin](const Tensor& t) { return t.slice(0, begin, begin + kTokens / 2); };
    halves->read(half(batch.index), half(batch.weight), use).backward(half(batch.grad));
  }
  EXPECT_TRUE(torch::equal(dense_gradient(*whole), dense_gradient(*halves)));
}

TEST(Table, CompactKeepsTheSumAndComesBeforeLaterReads) {
  torch::manual_seed(10);
  auto table = make_table();
  const int64_t use = table->register_use();
  for (int micro = 0; micro < 3; ++micro) {
    const Batch batch;
    table->read(batch.index, batch.weight, use).backward(batch.grad);
  }
  const Tensor before = dense_gradient(*table);
  table->compact();
  EXPECT_TRUE(torch::equal(dense_gradient(*table), before));
  const Batch batch;
  table->read(batch.index, batch.weight, use).backward(batch.grad);
  EXPECT_FALSE(torch::equal(dense_gradient(*table), before));
  table->zero_gradient();
  EXPECT_FALSE(table->has_gradient());
}

TEST(Table, TwoTablesOfOneNameDoNotMeet) {
  torch::manual_seed(11);
  auto a = make_table(), b = make_table();
  const Batch batch;
  a->read(batch.index, batch.weight, a->register_use()).backward(batch.grad);
  EXPECT_TRUE(a->has_gradient());
  EXPECT_FALSE(b->has_gradient());
  a->values().data().fill_(1);
  EXPECT_FALSE(torch::equal(a->values(), b->values()));
}

TEST(Table, SecondDerivativesAreRefusedByName) {
  auto table = make_table();
  const Batch batch;
  const Tensor weight = batch.weight.clone().requires_grad_();
  const Tensor out = table->read(batch.index, weight, table->register_use());
  const Tensor grad = torch::autograd::grad({out.sum()}, {weight}, {}, true, /*create_graph=*/true)[0];
  ASSERT_TRUE(grad.requires_grad());
  EXPECT_ANY_THROW(grad.square().sum().backward());
}

TEST(Table, RowsChangedBetweenForwardAndBackwardAreRefused) {
  auto table = make_table();
  const Batch batch;
  const Tensor out = table->read(batch.index, batch.weight.clone().requires_grad_(), table->register_use());
  table->initialise_zero();
  EXPECT_ANY_THROW(out.sum().backward());
}

TEST(Table, AUseThatWasNotRegisteredIsRefused) {
  auto table = make_table();
  const Batch batch;
  EXPECT_THROW(table->read(batch.index, batch.weight, 0), Error);
}

}  // namespace
}  // namespace loci
