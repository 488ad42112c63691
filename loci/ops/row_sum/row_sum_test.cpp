// Legend: M references, S sources, D width, U distinct rows.
#include "loci/ops/row_sum/row_sum.h"

#include <gmock/gmock.h>

#include <map>
#include <vector>

#include "loci/ops/row_sum/row_sum_definition.h"
#include "tests/op_harness.h"

namespace loci::row_sum_test {
namespace {

using at::Tensor;
using Sum = std::tuple<Tensor, Tensor>;

struct Case {
  Tensor row, coefficient, source_index, source;
};

Case make_case(int64_t references, int64_t sources, int64_t width, int64_t rows, at::ScalarType dtype) {
  Case c{torch::randint(0, rows, {references}, at::kLong), torch::randn({references}, dtype),
         torch::randint(0, std::max<int64_t>(sources, 1), {references}, at::kLong),
         torch::randn({sources, width}, dtype)};
  if (references > 3) c.coefficient[references / 2] = 0;
  return c;
}

Sum sum_of(const Case& c) {
  return row_sum(c.row, c.coefficient, c.source_index, c.source);
}

Sum definition_of(const Case& c) {
  return row_sum_definition(c.row, c.coefficient, c.source_index, c.source);
}

void expect_same(const Sum& got, const Sum& wanted) {
  EXPECT_TRUE(torch::equal(std::get<0>(got), std::get<0>(wanted)));
  EXPECT_TRUE(harness::same_bits(std::get<1>(got), std::get<1>(wanted)));
}

// The contract, one number at a time.
template <class Real>
std::map<int64_t, std::vector<Real>> by_hand(const Case& c) {
  std::map<int64_t, std::vector<int64_t>> positions;
  for (int64_t m = 0; m < c.row.size(0); ++m) {
    if (c.coefficient[m].item<Real>() != 0) positions[c.row[m].item<int64_t>()].push_back(m);
  }
  std::map<int64_t, std::vector<Real>> sums;
  for (const auto& [row, list] : positions) {
    std::vector<Real>& sum = sums[row];
    sum.assign(c.source.size(1), 0);
    for (size_t begin = 0; begin < list.size(); begin += 128) {
      for (int64_t d = 0; d < c.source.size(1); ++d) {
        Real block = 0;
        for (size_t p = begin; p < std::min(begin + 128, list.size()); ++p) {
          const int64_t m = list[p];
          const Real term = c.coefficient[m].item<Real>() * c.source[c.source_index[m].item<int64_t>()][d].item<Real>();
          block += term;
        }
        sum[d] += block;
      }
    }
  }
  return sums;
}

TEST(RowSum, FollowsTheContractNumberByNumber) {
  torch::manual_seed(1);
  for (const int64_t rows : {1, 7}) {
    const Case c = make_case(300, 11, 3, rows, at::kFloat);
    const auto wanted = by_hand<float>(c);
    for (const auto& [row, gradient] : {sum_of(c), definition_of(c)}) {
      ASSERT_EQ(row.size(0), static_cast<int64_t>(wanted.size()));
      int64_t u = 0;
      for (const auto& [wanted_row, sum] : wanted) {
        EXPECT_EQ(row[u].item<int64_t>(), wanted_row);
        for (int64_t d = 0; d < 3; ++d) EXPECT_EQ(gradient[u][d].item<float>(), sum[d]);
        ++u;
      }
    }
  }
}

TEST(RowSum, HasTheBitsOfTheDefinitionForEverySize) {
  torch::manual_seed(2);
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (const int64_t width : {1, 7, 8, 9, 15, 16, 17, 31, 33, 64}) {
      const Case c = make_case(500, 20, width, 40, dtype);
      expect_same(sum_of(c), definition_of(c));
    }
    for (const int64_t references : {0, 1, 2, 127, 128, 129, 255, 256, 257, 20000}) {
      const Case c = make_case(references, 5, 4, 3, dtype);
      expect_same(sum_of(c), definition_of(c));
    }
  }
}

TEST(RowSum, TakesRowsOfAnyMagnitude) {
  torch::manual_seed(3);
  Case c = make_case(5000, 9, 5, 1000, at::kFloat);
  c.row = c.row * 1'000'003'000'001 + 17;
  expect_same(sum_of(c), definition_of(c));
  c.row.fill_(std::numeric_limits<int64_t>::max());
  expect_same(sum_of(c), definition_of(c));
}

TEST(RowSum, HasTheSameBitsForAnyThreadCountAndTwiceInARow) {
  torch::manual_seed(4);
  Case c = make_case(50000, 300, 24, 700, at::kFloat);
  c.row.slice(0, 0, 20000).fill_(5);  // one popular row
  const int threads = at::get_num_threads();
  const Sum wanted = definition_of(c);
  for (const int count : {1, 2, 3, 8, 8}) {
    at::set_num_threads(count);
    expect_same(sum_of(c), wanted);
  }
  at::set_num_threads(threads);
}

TEST(RowSum, DropsZeroCoefficientsAndKeepsNaN) {
  const Case c{torch::tensor({3, 1, 2, 1}, at::kLong),
               torch::tensor({0.0F, -0.0F, std::numeric_limits<float>::quiet_NaN(), 2.0F}),
               torch::tensor({0, 0, 0, 0}, at::kLong), torch::ones({1, 2})};
  for (const auto& [row, gradient] : {sum_of(c), definition_of(c)}) {
    EXPECT_TRUE(torch::equal(row, torch::tensor({1, 2}, at::kLong)));
    EXPECT_EQ(gradient[0][0].item<float>(), 2);
    EXPECT_TRUE(gradient[1].isnan().all().item<bool>());
  }
}

TEST(RowSum, TakesTensorsThatAreNotContiguous) {
  torch::manual_seed(5);
  const Case wide = make_case(200, 12, 10, 20, at::kFloat);
  const Case c{wide.row.slice(0, 0, 200, 2), wide.coefficient.slice(0, 0, 200, 2),
               wide.source_index.slice(0, 0, 200, 2), wide.source.slice(1, 0, 10, 2)};
  expect_same(sum_of(c), sum_of({c.row.contiguous(), c.coefficient.contiguous(), c.source_index.contiguous(),
                                 c.source.contiguous()}));
  expect_same(sum_of(c), definition_of(c));
}

TEST(RowSum, TakesEverySizeOfZero) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (const int64_t sources : {0, 3}) {
      for (const int64_t width : {0, 5}) {
        for (const int64_t references : {0, 7}) {
          if (references > 0 && sources == 0) continue;
          const Case c = make_case(references, sources, width, 4, dtype);
          expect_same(sum_of(c), definition_of(c));
          EXPECT_EQ(std::get<1>(sum_of(c)).size(1), width);
        }
      }
    }
  }
}

void expect_refused(const Case& c, const std::string& message) {
  for (const auto sum : {sum_of, definition_of}) {
    EXPECT_THAT(harness::message_of([&] { sum(c); }), testing::HasSubstr(message));
  }
}

TEST(RowSum, RefusesBadInputWithWhoWhatAndGot) {
  const Case good = make_case(4, 2, 3, 5, at::kFloat);
  Case c = good;
  c.row = good.row.to(at::kInt);
  expect_refused(c, "row_sum: row must be int64, got Int");
  c = good;
  c.source_index = good.source_index.to(at::kFloat);
  expect_refused(c, "row_sum: source_index must be int64, got Float");
  c = good;
  c.source = good.source.to(at::kHalf);
  expect_refused(c, "row_sum: source must be float32 or float64, got Half");
  c = good;
  c.coefficient = good.coefficient.to(at::kDouble);
  expect_refused(c, "row_sum: coefficient must have source's dtype Float, got Double");
  c = good;
  c.coefficient = good.coefficient.slice(0, 1);
  expect_refused(c, "row_sum: coefficient must be [4] as row is, got [3]");
  c = good;
  c.source = good.source[0];
  expect_refused(c, "row_sum: source must be [S, D], got [3]");
  // Values are checked where the coefficient is 0 too.
  for (const float coefficient : {1.0F, 0.0F}) {
    c = good;
    c.coefficient = torch::full({4}, coefficient);
    c.row = torch::tensor({1, 2, -3, 4}, at::kLong);
    expect_refused(c, "row_sum: row must be at least 0, got -3");
    c.row = good.row;
    c.source_index = torch::tensor({0, 1, 2, 0}, at::kLong);
    expect_refused(c, "row_sum: source_index must be within 0 .. 1, got 2");
    c.source_index = torch::tensor({0, -1, 1, 0}, at::kLong);
    expect_refused(c, "row_sum: source_index must be within 0 .. 1, got -1");
  }
}

// Both forms, for references that are sorted already.
TEST(RowSum, RefusesAnOrderThatLeavesItsTensors) {
  const RowOrder good{torch::tensor({2, 5}), torch::tensor({0, 1, 3}), torch::tensor({0, 1, 1}, at::kInt),
                      torch::ones({3})};
  const Tensor source = torch::ones({2, 4});
  const auto refused = [&](const RowOrder& order, const std::string& message) {
    EXPECT_THAT(harness::message_of([&] { row_sum(order, source); }), testing::HasSubstr(message));
    EXPECT_THAT(harness::message_of([&] { row_sum_definition(order, source); }), testing::HasSubstr(message));
  };
  EXPECT_TRUE(torch::equal(row_sum(good, source), row_sum_definition(good, source)));
  RowOrder bad = good;
  bad.begin = torch::tensor({0, 3, 3});
  refused(bad, "row_sum: begin must ascend from 0 to 3");
  bad.begin = torch::tensor({0, 1, 2});
  refused(bad, "row_sum: begin must ascend from 0 to 3");
  bad.begin = torch::tensor({1, 2, 3});
  refused(bad, "row_sum: begin must ascend from 0 to 3");
  bad = good;
  bad.source = torch::tensor({0, 2, 1}, at::kInt);
  refused(bad, "row_sum: source of references must be within 0 .. 1, got 2");
}

}  // namespace
}  // namespace loci::row_sum_test
