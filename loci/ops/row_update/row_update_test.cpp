// Legend: N rows, D width, U distinct rows.
#include "loci/ops/row_update/row_update.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <vector>

#include "loci/ops/row_update/row_update_definition.h"

namespace loci {
namespace {

using at::Tensor;

struct Case {
  Tensor table;
  RowState state;
  Tensor row, gradient;
  RowUpdate update;

  std::vector<Tensor> written() const {
    std::vector<Tensor> all{table};
    for (const Tensor& t : {state.moment1, state.moment2, state.count, state.master}) {
      if (t.defined()) all.push_back(t);
    }
    return all;
  }
  Case copy() const {
    const auto clone = [](const Tensor& t) { return t.defined() ? t.clone() : t; };
    return {clone(table),
            {clone(state.moment1), clone(state.moment2), clone(state.count), clone(state.master)},
            row,
            gradient,
            update};
  }
};

Case make_case(RowRule rule, RowRounding rounding, at::ScalarType dtype, int64_t rows, int64_t width) {
  const auto real = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor row = std::get<0>(torch::randperm(rows, at::kLong).slice(0, 0, (rows + 1) / 2).sort());
  Case c{torch::randn({rows, width}, dtype), {}, row, torch::randn({row.size(0), width}, real), {}};
  c.state = {torch::randn({rows, width}, real), torch::rand({rows, width}, real),
             torch::randint(0, 2000, {rows}, at::kInt), c.table.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true)};
  c.state.master.slice(0, 0, rows / 2).add_(0.25);  // of rows that somebody wrote since
  if (rule == RowRule::adam_row_moment || rule == RowRule::adagrad) c.state.moment2 = torch::rand({rows}, real);
  c.update = {rule, rounding, 0.01, 0.9, 0.999, 1e-8, 0.1, 0.5, 77, 5};
  return c;
}

constexpr RowRule kRules[] = {RowRule::adam, RowRule::adam_row_moment, RowRule::adagrad, RowRule::sgd};

void expect_same_bits(const Case& got, const Case& wanted) {
  const auto a = got.written(), b = wanted.written();
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    // The framework's square root of a float64 may be off by a bit.
    const bool same = a[i].scalar_type() == at::kDouble ? torch::allclose(a[i], b[i], 1e-15, 1e-15)
                                                        : torch::equal(a[i], b[i]);
    EXPECT_TRUE(same) << "tensor " << i << " of rule " << static_cast<int>(got.update.rule) << ", rounding "
                      << static_cast<int>(got.update.rounding) << ", " << got.table.scalar_type();
  }
}

void run(const Case& c) { row_update(c.table, c.state, c.row, c.gradient, c.update); }

TEST(RowUpdate, HasTheBitsOfTheDefinitionForEveryRuleDtypeAndSize) {
  torch::manual_seed(1);
  for (const RowRule rule : kRules) {
    for (const auto& [dtype, rounding] :
         {std::pair(at::kFloat, RowRounding::nearest), std::pair(at::kDouble, RowRounding::nearest),
          std::pair(at::kBFloat16, RowRounding::nearest), std::pair(at::kBFloat16, RowRounding::stochastic),
          std::pair(at::kBFloat16, RowRounding::master)}) {
      for (const int64_t width : {1, 7, 8, 9, 16, 17, 33, 64, 65, 130}) {
        const Case c = make_case(rule, rounding, dtype, 21, width), twin = c.copy();
        run(c);
        row_update_definition(twin.table, twin.state, twin.row, twin.gradient, twin.update);
        expect_same_bits(c, twin);
      }
    }
  }
}

TEST(RowUpdate, LeavesTheBitsOfAllOtherRowsAndTheirState) {
  torch::manual_seed(2);
  for (const RowRule rule : kRules) {
    const Case c = make_case(rule, RowRounding::master, at::kBFloat16, 40, 6), before = c.copy();
    run(c);
    Tensor other = torch::ones({40}, at::kBool);
    other.index_fill_(0, c.row, false);
    const auto a = c.written(), b = before.written();
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_TRUE(torch::equal(a[i].index({other}), b[i].index({other})));
    }
    EXPECT_FALSE(torch::equal(c.table, before.table));
  }
}

TEST(RowUpdate, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(3);
  const int threads = at::get_num_threads();
  for (const RowRule rule : kRules) {
    const Case c = make_case(rule, RowRounding::stochastic, at::kBFloat16, 9000, 24);
    at::set_num_threads(1);
    const Case wanted = c.copy();
    run(wanted);
    const Tensor square = row_square_sum(c.gradient);
    EXPECT_TRUE(torch::allclose(square, row_square_sum_definition(c.gradient), 1e-14, 0));
    for (const int count : {2, 3, 8}) {
      at::set_num_threads(count);
      const Case again = c.copy();
      run(again);
      expect_same_bits(again, wanted);
      EXPECT_TRUE(torch::equal(row_square_sum(c.gradient), square));
    }
  }
  at::set_num_threads(threads);
}

TEST(RowUpdate, StochasticRoundingIsUnbiasedOver10000Draws) {
  // sgd with rate 1 moves 1 to x: the mean of the rounded draws must be x within 4 standard errors.
  for (const float x : {1.0F + 1.0F / 512, 1.003F, 1.0065F, -0.7011F, 3.3e-5F}) {
    const int64_t draws = 10000;
    const Tensor table = torch::zeros({draws / 100, 100}, at::kBFloat16);
    const Tensor row = torch::arange(draws / 100);
    row_update(table, {}, row, torch::full({draws / 100, 100}, -x),
               {.rule = RowRule::sgd, .rate = 1, .seed = 9, .step = 3});
    const double sum = table.to(at::kDouble).sum().item<double>();
    const double below = table.min().item<double>(), above = table.max().item<double>();
    ASSERT_LE(below, x);
    ASSERT_GE(above, x);
    const double gap = above - below;
    const double chance = gap == 0 ? 0 : (x - below) / gap;
    const double error = gap * std::sqrt(chance * (1 - chance) / draws);
    EXPECT_NEAR(sum / draws, x, 4 * error + 1e-12) << x;
  }
}

TEST(RowUpdate, StochasticRoundingDrawsAnewForEachSeedStepRowAndColumn) {
  const auto draw = [](uint64_t seed, int64_t step) {
    const Tensor table = torch::zeros({50, 20}, at::kBFloat16);
    row_update(table, {}, torch::arange(50), torch::full({50, 20}, -1.0F - 1.0F / 256),
               {.rule = RowRule::sgd, .rate = 1, .seed = seed, .step = step});
    return table;
  };
  EXPECT_TRUE(torch::equal(draw(1, 0), draw(1, 0)));
  EXPECT_FALSE(torch::equal(draw(1, 0), draw(2, 0)));
  EXPECT_FALSE(torch::equal(draw(1, 0), draw(1, 1)));
  EXPECT_FALSE(torch::equal(draw(1, 0)[0], draw(1, 0)[1]));
}

TEST(RowUpdate, InfinitiesAndNaNStayWhatTheyAre) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto rounding : {RowRounding::stochastic, RowRounding::nearest}) {
    const Tensor table = torch::zeros({1, 3}, at::kBFloat16);
    row_update(table, {}, torch::arange(1), torch::tensor({{infinity, -infinity, std::nanf("")}}),
               {.rule = RowRule::sgd, .rounding = rounding, .rate = 1});
    EXPECT_EQ(table[0][0].item<float>(), -infinity);
    EXPECT_EQ(table[0][1].item<float>(), infinity);
    EXPECT_TRUE(std::isnan(table[0][2].item<float>()));
  }
}

TEST(RowUpdate, RefusesBadInputWithWhoWhatAndGot) {
  const auto refused = [](const Case& c, const std::string& message) {
    try {
      run(c);
      ADD_FAILURE() << "expected: " << message;
    } catch (const c10::Error& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  };
  const Case good = make_case(RowRule::adam, RowRounding::nearest, at::kFloat, 6, 4);
  Case c = good.copy();
  c.row = torch::tensor({0, 2, 2}, at::kLong);
  refused(c, "row_update: row must be ascending and distinct, got 2 after 2");
  c.row = torch::tensor({0, 2, 6}, at::kLong);
  refused(c, "row_update: row must be within 0 .. 5, got 6");
  c = good.copy();
  c.gradient = good.gradient.to(at::kDouble);
  refused(c, "row_update: gradient must be Float, got Double");
  c = good.copy();
  c.state.moment2 = Tensor();
  refused(c, "row_update: moment2 must be a tensor for this rule, got none");
  c = good.copy();
  c.state.count = c.state.count.to(at::kLong);
  refused(c, "row_update: count must be Int, got Long");
  c = good.copy();
  c.table = good.table.to(at::kHalf);
  refused(c, "row_update: table must be float32, bfloat16 or float64, got Half");
  c = good.copy();
  c.table = good.table.t();
  EXPECT_THROW(run(c), c10::Error);
  EXPECT_THROW(row_square_sum(torch::zeros({3})), c10::Error);
}

}  // namespace
}  // namespace loci
