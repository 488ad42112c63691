// Legend: N rows, D width, U distinct rows.
#include "loci/ops/row_update/row_update.h"

#include <gmock/gmock.h>

#include <vector>

#include "loci/ops/row_sum/row_sum.h"
#include "loci/ops/row_update/row_update_definition.h"
#include "tests/op_harness.h"

namespace loci::row_update_test {
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

Case make_case(RowRule rule, RowRounding rounding, at::ScalarType dtype, int64_t rows, int64_t width,
               bool small_moments = false) {
  const auto real = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor row = std::get<0>(torch::randperm(rows, at::kLong).slice(0, 0, (rows + 1) / 2).sort());
  Case c{torch::randn({rows, width}, dtype), {}, row, torch::randn({row.size(0), width}, real), {}};
  c.state = {torch::randn({rows, width}, real), torch::rand({rows, width}, real),
             torch::randint(0, 2000, {rows}, at::kInt), c.table.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true)};
  c.state.master.slice(0, 0, rows / 2).add_(0.25);  // of rows that somebody wrote since
  if (rule == RowRule::adam_row_moment || rule == RowRule::adagrad) c.state.moment2 = torch::rand({rows}, real);
  if (small_moments) {
    c.state.moment1 = c.state.moment1.to(at::kBFloat16);
    if (rule == RowRule::adam) c.state.moment2 = c.state.moment2.to(at::kBFloat16);
  }
  c.update = {rule, rounding, 0.01, 0.9, 0.999, 1e-8, 0.1, 0.5, 77, 5, (int64_t{1} << 33) + 9};
  return c;
}

constexpr RowRule kRules[] = {RowRule::adam, RowRule::adam_row_moment, RowRule::adagrad, RowRule::sgd};

void expect_same_bits(const Case& got, const Case& wanted) {
  const auto a = got.written(), b = wanted.written();
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    // The framework's square root of a float64 may be off by a bit.
    const bool same =
        a[i].scalar_type() == at::kDouble ? torch::allclose(a[i], b[i], 1e-15, 1e-15) : torch::equal(a[i], b[i]);
    EXPECT_TRUE(same) << "tensor " << i << " of rule " << static_cast<int>(got.update.rule) << ", rounding "
                      << static_cast<int>(got.update.rounding) << ", " << got.table.scalar_type();
  }
}

void run(const Case& c) {
  row_update(c.table, c.state, c.row, c.gradient, c.update);
}

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

TEST(RowUpdate, KeepsMomentsInBfloat16WithTheBitsOfTheDefinition) {
  torch::manual_seed(11);
  for (const RowRule rule : {RowRule::adam, RowRule::adam_row_moment}) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      for (const int64_t width : {1, 8, 17, 64, 65, 130}) {
        const Case c = make_case(rule, RowRounding::stochastic, dtype, 21, width, true), twin = c.copy();
        run(c);
        row_update_definition(twin.table, twin.state, twin.row, twin.gradient, twin.update);
        expect_same_bits(c, twin);
      }
    }
  }
}

// The columns of a case from `first` on.
Case columns_of(const Case& c, int64_t first, int64_t count) {
  const auto part = [&](const Tensor& t) {
    return t.defined() && t.dim() == 2 ? t.narrow(1, first, count).contiguous() : t.clone();
  };
  Case result{part(c.table),
              {part(c.state.moment1), part(c.state.moment2), part(c.state.count), part(c.state.master)},
              c.row,
              part(c.gradient),
              c.update};
  result.update.first_column = first;
  result.update.whole_width = c.table.size(1);
  result.state.square_sum = row_square_sum(c.gradient);
  return result;
}

TEST(RowUpdate, OfSomeColumnsWritesWhatThatOfWholeRowsWrites) {
  torch::manual_seed(21);
  for (const RowRule rule : kRules) {
    for (const auto& [dtype, rounding, small] : {std::tuple(at::kFloat, RowRounding::nearest, false),
                                                 std::tuple(at::kBFloat16, RowRounding::stochastic, false),
                                                 std::tuple(at::kBFloat16, RowRounding::master, true)}) {
      const Case whole = make_case(rule, rounding, dtype, 21, 143, small);  // factor 0.5: squares of it are exact
      for (const auto& [first, count] : {std::pair(0, 50), std::pair(50, 75), std::pair(125, 18), std::pair(13, 1)}) {
        const Case part = columns_of(whole, first, count), twin = part.copy();
        Case defined = columns_of(whole, first, count), updated = whole.copy();
        run(updated);
        run(part);
        row_update_definition(defined.table, defined.state, defined.row, defined.gradient, defined.update);
        expect_same_bits(part, defined);
        const Tensor expected = updated.table.narrow(1, first, count);
        EXPECT_TRUE(torch::allclose(part.table, expected, 1e-6, 1e-7)) << static_cast<int>(rule) << " " << dtype;
        const bool of_columns = rule == RowRule::adam || rule == RowRule::sgd;
        EXPECT_TRUE(!of_columns || torch::equal(part.table, expected));
        EXPECT_FALSE(torch::equal(part.table, twin.table));
      }
    }
  }
}

struct Step {
  RowOrder order;
  Tensor source;
};

// Reads of T tokens, of which one row gets most.
Step make_step(int64_t T, int64_t K, int64_t rows, int64_t width, at::ScalarType real) {
  Tensor index = torch::randint(rows, {T, K}, at::kLong);
  index.slice(1, 0, K / 2).fill_(rows / 3);
  return {row_order({index}, {torch::randn({T, K}, real)}), torch::randn({T, width}, real)};
}

TEST(RowStep, HasTheBitsOfSumAndUpdateForEveryRuleAndDtype) {
  torch::manual_seed(12);
  for (const RowRule rule : kRules) {
    for (const auto& [dtype, rounding] :
         {std::pair(at::kFloat, RowRounding::nearest), std::pair(at::kDouble, RowRounding::nearest),
          std::pair(at::kBFloat16, RowRounding::nearest), std::pair(at::kBFloat16, RowRounding::stochastic),
          std::pair(at::kBFloat16, RowRounding::master)}) {
      for (const int64_t width : {1, 9, 33, 130}) {
        const auto real = dtype == at::kDouble ? at::kDouble : at::kFloat;
        const Step step = make_step(90, 8, 21, width, real);
        const Case fused = make_case(rule, rounding, dtype, 21, width), parts = fused.copy(), defined = fused.copy();
        const Tensor square = row_step(fused.table, fused.state, step.order, step.source, fused.update);
        const Tensor gradient = row_sum(step.order, step.source);
        row_update(parts.table, parts.state, step.order.row, gradient, parts.update);
        expect_same_bits(fused, parts);
        EXPECT_TRUE(torch::equal(square, row_square_sum(gradient)));
        EXPECT_TRUE(torch::equal(square, row_square_sum(step.order, step.source)));
        row_step_definition(defined.table, defined.state, step.order, step.source, defined.update);
        expect_same_bits(fused, defined);
      }
    }
  }
}

TEST(RowStep, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(13);
  const int threads = at::get_num_threads();
  const Step step = make_step(3000, 16, 5000, 24, at::kFloat);
  for (const RowRule rule : kRules) {
    const Case c = make_case(rule, RowRounding::stochastic, at::kBFloat16, 5000, 24,
                             rule == RowRule::adam || rule == RowRule::adam_row_moment);
    at::set_num_threads(1);
    const Case wanted = c.copy();
    const Tensor square = row_step(wanted.table, wanted.state, step.order, step.source, wanted.update);
    for (const int count : {2, 3, 8}) {
      at::set_num_threads(count);
      const Case again = c.copy();
      EXPECT_TRUE(torch::equal(row_step(again.table, again.state, step.order, step.source, again.update), square));
      expect_same_bits(again, wanted);
    }
  }
  at::set_num_threads(threads);
}

TEST(RowStep, RefusesReferencesThatLeaveTheirArrays) {
  torch::manual_seed(14);
  const Case c = make_case(RowRule::sgd, RowRounding::nearest, at::kFloat, 21, 4);
  const Step good = make_step(30, 4, 21, 4, at::kFloat);
  const auto refused = [&](const Step& step, const std::string& message) {
    for (const auto run : {row_step, row_step_definition}) {
      EXPECT_THAT(harness::message_of([&] { run(c.table, c.state, step.order, step.source, c.update); }),
                  testing::HasSubstr(message));
    }
  };
  Step step = good;
  step.source = good.source.slice(0, 0, 5);
  refused(step, "row_step: source of references must be within 0 .. 4, got ");
  step = good;
  step.order.begin = good.order.begin.flip(0);
  refused(step, "row_step: begin must ascend from 0 to ");
  step = good;
  step.order.row = good.order.row + 1;
  refused(step, "row_step: row must be within 0 .. 20, got 21");
  step = good;
  step.source = good.source.to(at::kDouble);
  refused(step, "row_step: coefficient must have source's dtype Double, got Float");
  step = good;
  step.source = good.source.slice(1, 0, 3);
  refused(step, "row_step: source must be [30, 4], got [30, 3]");
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

// A square that float32 cannot hold leaves an infinite second moment. Its row must not stand still in silence.
TEST(RowUpdate, AGradientWhoseSquareOverflowsMakesTheRowNaN) {
  for (const RowRule rule : kRules) {
    for (const float huge : {1e20F, -1e38F, std::numeric_limits<float>::infinity()}) {
      for (const bool small_moments : {false, true}) {
        if (small_moments && (rule == RowRule::adagrad || rule == RowRule::sgd)) continue;
        Case fast = make_case(rule, RowRounding::nearest, at::kFloat, 4, 19, small_moments);
        fast.gradient[1][17] = huge;
        fast.update.factor = 1;
        const Case slow = fast.copy();
        run(fast);
        row_update_definition(slow.table, slow.state, slow.row, slow.gradient, slow.update);
        EXPECT_TRUE(harness::same_bits(fast.table, slow.table));
        const Tensor hit = fast.table[fast.row[1].item<int64_t>()], nan = hit.isnan();
        const bool squares = rule != RowRule::sgd, by_row = rule != RowRule::adam;
        EXPECT_EQ(nan[17].item<bool>(), squares) << huge;
        EXPECT_EQ(nan.sum().item<int64_t>(), !squares ? 0 : by_row ? 19 : 1) << huge;
        EXPECT_TRUE(fast.table[fast.row[0].item<int64_t>()].isfinite().all().item<bool>());
        EXPECT_EQ(std::isfinite(hit[17].item<float>()), !squares && std::isfinite(huge));
      }
    }
  }
  // The factor counts: 1e25 * 1e-10 has a square.
  Case clipped = make_case(RowRule::adam, RowRounding::nearest, at::kFloat, 4, 3);
  clipped.gradient.mul_(1e25F);
  clipped.update.factor = 1e-10;
  run(clipped);
  EXPECT_TRUE(clipped.table.isfinite().all().item<bool>());
}

TEST(RowUpdate, TakesEverySizeOfZero) {
  const auto expect_nothing = [](const Case& c) {
    const Case before = c.copy(), slow = c.copy();
    run(c);
    row_update_definition(slow.table, slow.state, slow.row, slow.gradient, slow.update);
    expect_same_bits(c, before);
    expect_same_bits(slow, before);
    const int64_t rows = c.row.size(0), width = c.table.size(1);
    for (const auto square_sum : {static_cast<Tensor (*)(const Tensor&)>(row_square_sum), row_square_sum_definition}) {
      EXPECT_TRUE(torch::equal(square_sum(c.gradient), torch::zeros({rows}, at::kDouble)));
    }
    // Every row with one reference, to the only source.
    const RowOrder order{c.row, torch::arange(rows + 1), torch::zeros({rows}, at::kInt),
                         torch::ones({rows}, c.gradient.scalar_type())};
    const Tensor source = torch::ones({rows > 0 ? 1 : 0, width}, c.gradient.scalar_type());
    for (const auto step : {row_step, row_step_definition}) {
      const Tensor square = step(c.table, c.state, order, source, c.update);
      EXPECT_TRUE(torch::equal(square, torch::zeros({rows}, at::kDouble)));
      EXPECT_TRUE(torch::equal(row_square_sum(order, source), square));
      expect_same_bits(c, before);
    }
  };
  for (const RowRule rule : kRules) {
    for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
      for (const bool small_moments : {false, true}) {
        if (small_moments && (dtype == at::kDouble || rule == RowRule::adagrad || rule == RowRule::sgd)) continue;
        expect_nothing(make_case(rule, RowRounding::stochastic, dtype, 0, 3, small_moments));
        expect_nothing(make_case(rule, RowRounding::stochastic, dtype, 0, 0, small_moments));
        expect_nothing(make_case(rule, RowRounding::stochastic, dtype, 5, 0, small_moments));
        Case no_rows = make_case(rule, RowRounding::master, dtype, 5, 3, small_moments);
        no_rows.row = no_rows.row.slice(0, 0, 0);
        no_rows.gradient = no_rows.gradient.slice(0, 0, 0);
        expect_nothing(no_rows);
      }
    }
  }
}

TEST(RowUpdate, MovesTheVersionsOfAllThatItWrites) {
  for (const bool fused : {false, true}) {
    Case c = make_case(RowRule::adam, RowRounding::master, at::kBFloat16, 21, 4);
    c.table.requires_grad_();
    const Step step = make_step(30, 4, 21, 4, at::kFloat);
    std::vector<int64_t> before;
    for (const Tensor& t : c.written()) before.push_back(t._version());
    if (fused) {
      row_step(c.table, c.state, step.order, step.source, c.update);
    } else {
      run(c);
    }
    const auto written = c.written();
    for (size_t i = 0; i < written.size(); ++i) EXPECT_EQ(written[i]._version(), before[i] + 1) << "tensor " << i;
    EXPECT_EQ(c.row._version(), 0);
    EXPECT_EQ(c.gradient._version(), 0);
  }
}

TEST(RowUpdate, AGraphThatSavedAMomentRefusesToRunAfterAnUpdate) {
  const Case c = make_case(RowRule::adam, RowRounding::nearest, at::kFloat, 21, 4);
  const Tensor x = torch::ones({21, 4}).requires_grad_();
  const Tensor loss = (x * c.state.moment2).sum();
  run(c);
  EXPECT_THAT(harness::message_of([&] { loss.backward(); }), testing::HasSubstr("modified by an inplace operation"));
}

TEST(RowUpdate, RefusesBadInputWithWhoWhatAndGot) {
  const auto refused = [](const Case& c, const std::string& message) {
    for (const auto update : {row_update, row_update_definition}) {
      EXPECT_THAT(harness::message_of([&] { update(c.table, c.state, c.row, c.gradient, c.update); }),
                  testing::HasSubstr(message));
    }
  };
  const Case good = make_case(RowRule::adam, RowRounding::nearest, at::kFloat, 6, 4);
  Case c = good.copy();
  c.row = torch::tensor({0, 2, 2}, at::kLong);
  refused(c, "row_update: row must be ascending and distinct, got 2 after 2");
  c.row = torch::tensor({0, 2, 6}, at::kLong);
  refused(c, "row_update: row must be within 0 .. 5, got 6");
  c.row = torch::tensor({-1, 2, 4}, at::kLong);
  refused(c, "row_update: row must be within 0 .. 5, got -1");
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
  refused(c, "row_update: table must be contiguous, got strides [1, 4]");
  EXPECT_THAT(harness::message_of([] { row_square_sum(torch::zeros({3})); }),
              testing::HasSubstr("row_square_sum: gradient must be [U, D], got [3]"));
}

}  // namespace
}  // namespace loci::row_update_test
