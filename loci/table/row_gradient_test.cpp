// Legend: T tokens, K reads of a token, N rows, D width.
#include "loci/table/row_gradient.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "loci/table/local_table.h"
#include "loci/table/row_reads.h"
#include "tests/table_reads.h"

namespace loci {
namespace {

using at::Tensor;

TEST(PendingReferences, RowsThatAreNotTrainedGetNoReferences) {
  torch::manual_seed(2);
  auto table = make_table(), other = make_table();
  const int64_t use = table->register_use(), other_use = other->register_use();
  const Batch batch;
  Tensor mask = torch::zeros({kRows}, at::kBool);
  mask.index_fill_(0, torch::tensor({3, 17, 40}), true);
  table->set_trained_rows(mask);
  mask.fill_(true);  // the table keeps a copy
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
  EXPECT_TRUE(torch::equal(table->store().references().sum().row, kept));

  table->store().references().clear();
  table->set_trained_rows({});
  pass(*table, use);
  EXPECT_TRUE(torch::equal(dense_gradient(*table), all));
  expect_refusal("trained rows must be bool [50], got Bool [49]",
                 [] { make_table()->set_trained_rows(torch::ones({kRows - 1}, at::kBool)); });
  expect_refusal("trained rows must be bool [50], got Float",
                 [] { make_table()->set_trained_rows(torch::ones({kRows})); });
}

// Rows 30 to 49 of a table of 50; the others are elsewhere.
class PartOfTable : public Table {
 public:
  PartOfTable() : Table("memory", kRows, kWidth) {}
  c10::ScalarType dtype() const override { return at::kFloat; }
  c10::Device device() const override { return at::kCPU; }
  Tensor read(const Tensor& index, const Tensor& weight, int64_t use) override {
    return read_rows(*rows_, index - rows_->first_row(), weight, use);
  }
  Tensor project(const Tensor& index, const Tensor& x, int64_t use) override {
    return project_rows(*rows_, index - rows_->first_row(), x, use);
  }
  void prefetch(const Tensor&) override {}
  RowStore& store() override { return *rows_; }
  const RowStore& store() const override { return *rows_; }

 private:
  std::shared_ptr<RowStore> rows_ = std::make_shared<LocalRows>("memory", RowRange{30, 20}, kWidth);
};

TEST(PendingReferences, TrainedRowsAreThoseOfTheWholeTable) {
  PartOfTable part;
  part.set_trained_rows(torch::arange(kRows) == 41);
  part.read(torch::tensor({{31, 41, 40}}), torch::ones({1, 3}), part.register_use()).sum().backward();
  EXPECT_TRUE(torch::equal(part.store().references().sum().row, torch::tensor({11})));
}

TEST(PendingReferences, TheOrderOfArrivalDoesNotChangeTheSum) {
  torch::manual_seed(8);
  std::vector<RowReferences> references;
  for (int64_t pass = 0; pass < 3; ++pass) {
    for (int64_t use = 0; use < 3; ++use) {
      const Batch batch;
      references.push_back({batch.index, batch.weight, batch.grad, pass, use});
    }
  }
  const auto sum_of = [](const std::vector<RowReferences>& all) {
    PendingReferences pending("memory", kWidth);
    for (const RowReferences& one : all) pending.add(one);
    return pending.sum();
  };
  const RowGradient wanted = sum_of(references);
  std::reverse(references.begin(), references.end());
  const RowGradient reversed = sum_of(references);
  EXPECT_TRUE(torch::equal(wanted.row, reversed.row));
  EXPECT_TRUE(torch::equal(wanted.gradient, reversed.gradient));
}

TEST(PendingReferences, ThreadsThatReadOneLayerGetPassesOfTheirOwn) {
  PendingReferences pending("memory", kWidth);
  const int64_t use = pending.register_use(), each = 2'000'000;
  std::latch start(4);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      start.arrive_and_wait();
      for (int64_t n = 0; n < each; ++n) pending.next_pass(use);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pending.next_pass(use), 4 * each);
  pending.clear();
  EXPECT_EQ(pending.next_pass(use), 0);
}

TEST(PendingReferences, ReferencesThatDoNotFitAreRefused) {
  PendingReferences pending("memory", kWidth);
  const Batch batch;
  const auto refused = [&](const std::string& part, const RowReferences& references) {
    expect_refusal(part, [&] { pending.add(references); });
  };
  refused("index int64 [T, K] and weight [T, K], got Int", {batch.index.to(at::kInt), batch.weight, batch.grad});
  refused("and [40, 7]", {batch.index, batch.weight.narrow(1, 1, kReads - 1), batch.grad});
  refused("grad [40, 6] in weight's dtype Float, got [40, 5]", {batch.index, batch.weight, batch.grad.narrow(1, 0, 5)});
  refused("got [40, 6] Double", {batch.index, batch.weight, batch.grad.to(at::kDouble)});
  refused("references must be on one device, got cpu, cpu and meta",
          {batch.index, batch.weight, batch.grad.to("meta")});
  EXPECT_TRUE(pending.empty());
}

TEST(PendingReferences, TwoHalfBatchesGiveTheBitsOfOneBatch) {
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

TEST(PendingReferences, AReadWhoseTensorsAreWrittenBetweenBackwardAndStepIsRefused) {
  auto table = make_table();
  PendingReferences& left = table->store().references();
  const int64_t use = table->register_use();
  for (const bool project : {false, true}) {
    for (const bool needs_gradient : {false, true}) {
      for (const bool leaf : {false, true}) {
        for (int which = 0; which < 3; ++which) {
          const Batch batch;
          const Tensor drawn = (project ? batch.grad : batch.weight).clone().requires_grad_(needs_gradient);
          const Tensor input = leaf ? drawn : drawn * 2, grad = project ? batch.weight : batch.grad;
          (project ? table->project(batch.index, input, use) : table->read(batch.index, input, use)).backward(grad);
          EXPECT_GT(left.sum().row.numel(), 0);
          {
            const torch::NoGradGuard guard;
            Tensor(which == 0 ? batch.index : which == 1 ? input : grad).zero_();
          }
          expect_refusal(
              "table memory: index, weight, input and gradient of a read must keep their values from backward",
              [&] { left.sum(); });
          left.clear();
          EXPECT_EQ(left.sum().row.numel(), 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace loci
