// How a step changes the rows. The state of the optimiser: row_optimizer_state_test.cpp.
//
// Legend: T tokens, K reads of a token, N rows, D width.
#include "loci/optim/row_optimizer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/ops/row_sum/row_sum_definition.h"
#include "loci/ops/row_update/row_update_definition.h"
#include "tests/temporary_folder.h"
#include "tests/trained_table.h"

namespace loci {
namespace {

using at::Tensor;

TEST(RowOptimizer, LazyAdamIsDenseAdamWhenAllRowsAreTouched) {
  torch::manual_seed(1);
  const TablePtr table = trained_table();
  Tensor plain = table->store().values().detach().to(at::kDouble).requires_grad_();
  torch::optim::Adam adam({plain}, torch::optim::AdamOptions(1e-2).betas({0.9, 0.999}).eps(1e-8));
  RowOptimizer rows(table->store(), {.rule = RowRule::adam, .learning_rate = 1e-2}, 0);
  for (int step = 0; step < 20; ++step) {
    const Tensor gradient = torch::randn({kRows, kWidth});
    plain.mutable_grad() = gradient.to(at::kDouble);
    adam.step();
    leave_gradient(*table, torch::arange(kRows), gradient);
    EXPECT_EQ(rows.step().rows, kRows);
  }
  EXPECT_LT((table->store().values() - plain).abs().max().item<double>(), 2e-6);
}

TEST(RowOptimizer, ARowsFirstTouchAtStep1000MovesItByTheLearningRate) {
  const TablePtr table = trained_table();
  RowOptimizer rows(table->store(), {.rule = RowRule::adam, .learning_rate = 1e-2}, 0);
  const Tensor one = torch::tensor({1}, at::kLong), two = torch::tensor({2}, at::kLong);
  for (int step = 0; step < 1000; ++step) {
    leave_gradient(*table, one, torch::ones({1, kWidth}));
    rows.step();
  }
  const Tensor before = table->store().values()[2].detach().clone();
  leave_gradient(*table, two, torch::full({1, kWidth}, -3.0F));
  rows.step();
  EXPECT_TRUE(torch::allclose(table->store().values()[2] - before, torch::full({kWidth}, 1e-2F), 1e-4, 1e-6));
}

TEST(RowOptimizer, UntouchedRowsAndTheirStateKeepTheirBits) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const RowRule rule : kRules) {
      const TablePtr table = trained_table(dtype);
      RowOptimizer rows(table->store(), {.rule = rule, .learning_rate = 0.1, .weight_decay = 0.1}, 0);
      for (int step = 0; step < 3; ++step) {
        train_reads(*table, step);
        rows.step();
      }
      std::vector<Tensor> tensors{table->store().values()};
      for (const auto& [name, state] : rows.state()) {
        if (name != "steps") tensors.push_back(state);
      }
      std::vector<Tensor> before;
      for (const Tensor& t : tensors) before.push_back(t.detach().clone());
      leave_gradient(*table, torch::tensor({4, 9}, at::kLong), torch::randn({2, kWidth}));
      EXPECT_EQ(rows.step().rows, 2);
      Tensor other = torch::ones({kRows}, at::kBool);
      other[4] = false;
      other[9] = false;
      for (size_t i = 0; i < tensors.size(); ++i) {
        EXPECT_TRUE(torch::equal(tensors[i].index({other}), before[i].index({other})));
        EXPECT_FALSE(torch::equal(tensors[i], before[i]));
      }
    }
  }
}

TEST(RowOptimizer, TheClippedNormIsThatOfTheDenseGradientWithRepeatedRows) {
  const TablePtr table = trained_table(at::kDouble);
  train_reads(*table, 1);
  const RowGradient sum = table->store().references().sum();
  const double wanted = sum.gradient.norm().item<double>();
  const Tensor before = table->store().values().detach().clone();
  const double clip = wanted / 4;
  RowOptimizer rows(table->store(), {.rule = RowRule::sgd, .learning_rate = 1, .clip_norm = clip}, 0);
  const RowStep step = rows.step();
  EXPECT_NEAR(step.norm, wanted, 1e-12 * wanted);
  EXPECT_NEAR((table->store().values() - before).norm().item<double>(), clip, 1e-12 * wanted);
  EXPECT_TRUE(table->store().references().empty());

  train_reads(*table, 1);
  EXPECT_NEAR(rows.step(2.0).norm, wanted / 2, 1e-12 * wanted);
}

TEST(RowOptimizer, TwoHalfBatchesGiveTheBitsOfOneBatch) {
  torch::manual_seed(2);
  const Tensor index = torch::randint(0, kRows, {20, 4}, at::kLong), weight = torch::rand({20, 4});
  const Tensor grad = torch::randn({20, kWidth});
  const TablePtr whole = trained_table(), halves = trained_table();
  for (const TablePtr& table : {whole, halves}) {
    RowOptimizer rows(table->store(), {.learning_rate = 0.1}, 0);
    for (int step = 0; step < 3; ++step) {
      const int64_t size = table == whole ? 20 : 10;
      for (int64_t begin = 0; begin < 20; begin += size) {
        const auto part = [&](const Tensor& t) { return t.slice(0, begin, begin + size); };
        table->read(part(index), part(weight), 0).backward(part(grad));
      }
      rows.step();
    }
  }
  EXPECT_TRUE(torch::equal(whole->store().values(), halves->store().values()));
}

TEST(RowOptimizer, AGradientThatIsNotFiniteIsSkippedAndNothingChanges) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), -std::nanf(""), infinity, -infinity}) {
    for (const RowRule rule : kRules) {
      const TablePtr table = trained_table();
      RowOptimizer rows(table->store(), {.rule = rule}, 0);
      train_reads(*table, 1);
      rows.step();
      std::vector<Tensor> before{table->store().values().detach().clone()}, after{table->store().values()};
      for (const auto& [name, state] : rows.state()) {
        before.push_back(state.clone());
        after.push_back(state);
      }
      Tensor gradient = torch::ones({2, kWidth});
      gradient[1][3] = bad;
      leave_gradient(*table, torch::tensor({3, 7}, at::kLong), gradient);
      const RowStep step = rows.step();
      EXPECT_TRUE(step.skipped);
      EXPECT_FALSE(std::isfinite(step.norm));
      EXPECT_TRUE(table->store().references().empty());
      for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(torch::equal(before[i], after[i]));
    }
  }
}

TEST(RowOptimizer, HasTheSameBitsForAnyThreadCount) {
  const int threads = at::get_num_threads();
  for (const RowRule rule : kRules) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      std::vector<Tensor> found;
      std::vector<double> norms;
      for (const int count : {1, 2, 3, 8, 8}) {
        at::set_num_threads(count);
        const TablePtr table = trained_table(dtype, 3000, 17);
        RowOptimizer rows(table->store(), {.rule = rule, .learning_rate = 0.05, .clip_norm = 3}, 5);
        for (int step = 0; step < 3; ++step) {
          train_reads(*table, step, 600, 16);
          norms.push_back(rows.step().norm);
        }
        found.push_back(table->store().values().detach());
      }
      for (size_t i = 1; i < found.size(); ++i) EXPECT_TRUE(torch::equal(found[0], found[i]));
      for (size_t i = 3; i < norms.size(); ++i) EXPECT_EQ(norms[i], norms[i - 3]);
    }
  }
  at::set_num_threads(threads);
}

// Byte for byte after 50 steps, for any number of threads; and the definitions in ATen, step by step, give the same
// rows.
TEST(RowOptimizer, FiftyStepsGiveTheSameTableForAnyThreadCountAndByTheDefinitions) {
  const int threads = at::get_num_threads();
  const RowOptimizerOptions options{.rule = RowRule::adam, .learning_rate = 0.05};
  std::vector<Tensor> found;
  for (const int count : {1, 2, 3, 8}) {
    at::set_num_threads(count);
    const TablePtr table = trained_table(at::kFloat, 2000, 24);
    RowOptimizer rows(table->store(), options, 5);
    for (int step = 0; step < 50; ++step) {
      train_reads(*table, step, 400, 16);
      rows.step();
    }
    found.push_back(table->store().values().detach());
  }
  at::set_num_threads(threads);
  for (const Tensor& values : found) EXPECT_TRUE(torch::equal(values, found[0]));

  const TablePtr table = trained_table(at::kFloat, 2000, 24);
  const RowState state{torch::zeros({2000, 24}), torch::zeros({2000, 24}), torch::zeros({2000}, at::kInt), {}};
  for (int step = 0; step < 50; ++step) {
    train_reads(*table, step, 400, 16);
    const OrderedReferences read = table->store().references().ordered();
    row_update_definition(table->store().values().detach(), state, read.order.row,
                          row_sum_definition(read.order, read.source),
                          {.rule = RowRule::adam, .rate = 0.05, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8});
    table->store().references().clear();
  }
  EXPECT_TRUE(torch::equal(table->store().values(), found[0]));
}

// Without a clip the sums are made once, in the pass that updates; with one that never clips, twice.
TEST(RowOptimizer, OnePassAndTwoPassesGiveTheSameBits) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    std::vector<Tensor> found;
    std::vector<double> norms;
    for (const double clip : {0.0, 1e30}) {
      const TablePtr table = trained_table(dtype, 300, 17);
      RowOptimizer rows(table->store(), {.rule = RowRule::adam, .learning_rate = 0.05, .clip_norm = clip}, 5);
      for (int step = 0; step < 5; ++step) {
        train_reads(*table, step, 60, 8);
        norms.push_back(rows.step().norm);
      }
      found.push_back(table->store().values().detach());
    }
    EXPECT_TRUE(torch::equal(found[0], found[1]));
    for (size_t i = 0; i < 5; ++i) EXPECT_EQ(norms[i], norms[i + 5]);
  }
}

// Finite factors whose product, or whose sum, is not.
TEST(RowOptimizer, ASumThatOverflowsSkipsTheStep) {
  for (const auto& [weight, grad] : {std::pair(1e30F, 1e30F), std::pair(1.0F, 3e38F), std::pair(-1.0F, -3e38F)}) {
    const TablePtr table = trained_table();
    const Tensor before = table->store().values().detach().clone();
    RowOptimizer rows(table->store(), {}, 0);
    table->store().references().add(
        {torch::full({3, 1}, 4, at::kLong), torch::full({3, 1}, weight), torch::full({3, kWidth}, grad), 0, 0});
    const RowStep step = rows.step();
    EXPECT_TRUE(step.skipped);
    EXPECT_FALSE(std::isfinite(step.norm));
    EXPECT_TRUE(torch::equal(table->store().values(), before));
  }
}

// Adam's second moment could not hold its square: the row would never move again.
TEST(RowOptimizer, AGradientWhoseSquareOverflowsSkipsTheStep) {
  for (const double clip_norm : {0.0, 1.0}) {
    for (const RowRule rule : kRules) {
      const TablePtr table = trained_table();
      const Tensor row = torch::tensor({4}, at::kLong), before = table->store().values().detach().clone();
      RowOptimizer rows(table->store(), {.rule = rule, .clip_norm = clip_norm}, 0);
      leave_gradient(*table, row, torch::full({1, kWidth}, 3e19F));
      const RowStep huge = rows.step();
      EXPECT_TRUE(huge.skipped);
      EXPECT_TRUE(std::isinf(huge.norm));
      EXPECT_TRUE(torch::equal(table->store().values(), before));
      for (const double scale : {1.0, 100.0}) {  // the scale counts
        leave_gradient(*table, row, torch::full({1, kWidth}, static_cast<float>(5e18 * scale)));
        EXPECT_FALSE(rows.step(scale).skipped) << scale;
        EXPECT_TRUE(table->store().values().isfinite().all().item<bool>());
      }
    }
  }
}

TEST(RowOptimizer, TwoTablesInOneProcessDoNotMeet) {
  const TablePtr a = trained_table(), b = trained_table(), alone = trained_table();
  RowOptimizer first(a->store(), {}, 0), second(b->store(), {}, 0), third(alone->store(), {}, 0);
  for (int step = 0; step < 3; ++step) {
    train_reads(*a, step);
    train_reads(*b, step + 100);
    first.step();
    second.step();
    train_reads(*alone, step);
    third.step();
  }
  EXPECT_TRUE(torch::equal(a->store().values(), alone->store().values()));
  EXPECT_FALSE(torch::equal(a->store().values(), b->store().values()));
}

// Rows of which this process cannot take a pointer.
class DistantRows : public RowStore {
 public:
  DistantRows() : RowStore("distant", {0, kRows}, kWidth) {}
  const Tensor& values() const override { return values_; }
  Tensor row_storage(const std::string&, int64_t width, at::ScalarType dtype, PageSize) override {
    return torch::zeros({kRows, width}, at::TensorOptions().dtype(dtype).device(at::kMeta));
  }
  void clear_storage(const Tensor&) override {}

 private:
  Tensor values_ = torch::zeros({kRows, kWidth}, at::TensorOptions().device(at::kMeta));
};

TEST(RowOptimizer, RowsOnAnotherDeviceAreRefused) {
  expect_error(ExitCode::usage, "row optimiser of table distant: rows must be on cpu, got meta",
               [] { RowOptimizer(*std::make_shared<DistantRows>(), {}, 0); });
}

TEST(RowOptimizer, KeepsTheRowsAliveWithoutTheirTable) {
  TablePtr table = trained_table();
  RowOptimizer rows(table->store(), {.rule = RowRule::sgd, .learning_rate = 1}, 0);
  leave_gradient(*table, torch::tensor({2}, at::kLong), torch::ones({1, kWidth}));
  const Tensor before = table->store().values().detach().clone();
  table.reset();
  rows.step();
  EXPECT_TRUE(torch::equal(rows.rows().values()[2], before[2] - 1));
}

TEST(RowOptimizer, ReadsItsOptionsFromAConfiguration) {
  RowOptimizerOptions options;
  Config::from_text("rule = \"adagrad\"\nlearning_rate = 0.3\nrounding = \"master\"\npages = \"small\"\n")
      .read(options);
  EXPECT_EQ(options.pages, RowPages::small);
  EXPECT_EQ(options.rule, RowRule::adagrad);
  EXPECT_EQ(options.rounding, RowRounding::master);
  EXPECT_EQ(RowOptimizer(trained_table()->store(), options, 0).options().epsilon, 1e-10);
  EXPECT_EQ(RowOptimizer(trained_table()->store(), {}, 0).options().epsilon, 1e-8);
  RowOptimizerOptions narrow;
  Config::from_text("moments = \"bfloat16\"\n").read(narrow);
  EXPECT_EQ(narrow.moments, RowMoments::bfloat16);
  for (const char* text : {"rule = \"sgd\"\nepsilon = 1e-6\n", "rule = \"adagrad\"\nbeta2 = 0.9\n",
                           "rule = \"adagrad\"\nmoments = \"bfloat16\"\n"}) {
    expect_error(ExitCode::usage, "must be left out, for it has an effect only where table_optimizer.rule is",
                 [&] { Config::from_text(text).read(narrow); });
  }
  EXPECT_THROW(Config::from_text("rule = \"adams\"\n").read(options), Error);
  EXPECT_THROW(Config::from_text("learning_rate = -1.0\n").read(options), Error);
}

}  // namespace
}  // namespace loci
