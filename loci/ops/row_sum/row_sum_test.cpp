// Legend: M references, S sources, D width, U distinct rows.
#include "loci/ops/row_sum/row_sum.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "loci/ops/row_sum/row_sum_definition.h"
#include "tests/op_harness.h"

namespace loci::row_sum_test {
namespace {

using at::Tensor;
struct Case {
  RowOrder order;
  Tensor source;
};

// References to random rows, in their order.
Case make_case(int64_t references, int64_t sources, int64_t width, int64_t rows, at::ScalarType dtype) {
  const Tensor row = std::get<0>(torch::randint(0, rows, {references}, at::kLong).sort());
  const auto [distinct, inverse, count] = at::unique_consecutive(row, false, true);
  const Tensor begin = torch::cat({torch::zeros({1}, at::kLong), count.cumsum(0)});
  return {{distinct, begin, torch::randint(0, std::max<int64_t>(sources, 1), {references}, at::kInt),
           torch::randn({references}, dtype)},
          torch::randn({sources, width}, dtype)};
}

Tensor sum_of(const Case& c) {
  return row_sum(c.order, c.source);
}

Tensor definition_of(const Case& c) {
  return row_sum_definition(c.order, c.source);
}

void expect_same_sums(const Case& c) {
  EXPECT_TRUE(harness::same_bits(sum_of(c), definition_of(c)));
}

// The contract, one number at a time.
template <class Real>
std::vector<std::vector<Real>> by_hand(const Case& c) {
  std::vector<std::vector<Real>> sums;
  for (int64_t u = 0; u < c.order.row.size(0); ++u) {
    const auto first = c.order.begin[u].item<int64_t>(), last = c.order.begin[u + 1].item<int64_t>();
    std::vector<Real>& sum = sums.emplace_back(c.source.size(1), 0);
    for (int64_t begin = first; begin < last; begin += 128) {
      for (int64_t d = 0; d < c.source.size(1); ++d) {
        Real block = 0;
        for (int64_t m = begin; m < std::min(begin + 128, last); ++m) {
          const Real term =
              c.order.coefficient[m].item<Real>() * c.source[c.order.source[m].item<int64_t>()][d].item<Real>();
          block += term;
        }
        sum[static_cast<size_t>(d)] += block;
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
    for (const Tensor& gradient : {sum_of(c), definition_of(c)}) {
      ASSERT_EQ(gradient.size(0), std::ssize(wanted));
      for (int64_t u = 0; u < gradient.size(0); ++u) {
        for (int64_t d = 0; d < 3; ++d) {
          EXPECT_EQ(gradient[u][d].item<float>(), wanted[static_cast<size_t>(u)][static_cast<size_t>(d)]);
        }
      }
    }
  }
}

TEST(RowSum, HasTheBitsOfTheDefinitionForEverySize) {
  torch::manual_seed(2);
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (const int64_t width : {1, 7, 8, 9, 15, 16, 17, 31, 33, 64}) {
      expect_same_sums(make_case(500, 20, width, 40, dtype));
    }
    for (const int64_t references : {0, 1, 2, 127, 128, 129, 255, 256, 257, 20000}) {
      expect_same_sums(make_case(references, 5, 4, 3, dtype));
    }
  }
}

TEST(RowSum, HasTheSameBitsForAnyThreadCountAndTwiceInARow) {
  torch::manual_seed(4);
  Tensor index = torch::randint(700, {3125, 16}, at::kLong);
  index.slice(0, 0, 1250).fill_(5);  // one popular row
  const Case c{row_order({index}, {torch::randn({3125, 16})}), torch::randn({3125, 24})};
  const int threads = at::get_num_threads();
  const Tensor wanted = definition_of(c);
  for (const int count : {1, 2, 3, 8, 8}) {
    at::set_num_threads(count);
    EXPECT_TRUE(harness::same_bits(sum_of(c), wanted));
  }
  at::set_num_threads(threads);
}

TEST(RowSum, KeepsNaN) {
  Case c = make_case(9, 2, 3, 4, at::kFloat);
  c.order.coefficient[0] = std::numeric_limits<float>::quiet_NaN();
  for (const Tensor& gradient : {sum_of(c), definition_of(c)}) {
    EXPECT_TRUE(gradient[0].isnan().all().item<bool>());
    EXPECT_TRUE(gradient.slice(0, 1).isfinite().all().item<bool>());
  }
}

TEST(RowSum, TakesTensorsThatAreNotContiguous) {
  torch::manual_seed(5);
  const Case c = make_case(200, 12, 5, 20, at::kFloat);
  const Case strided{{harness::strided(c.order.row), harness::strided(c.order.begin), harness::strided(c.order.source),
                      harness::strided(c.order.coefficient)},
                     harness::strided(c.source)};
  EXPECT_TRUE(harness::same_bits(sum_of(strided), sum_of(c)));
  EXPECT_TRUE(harness::same_bits(definition_of(strided), sum_of(c)));
}

TEST(RowSum, TakesEverySizeOfZero) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (const int64_t sources : {0, 3}) {
      for (const int64_t width : {0, 5}) {
        for (const int64_t references : {0, 7}) {
          if (references > 0 && sources == 0) continue;
          const Case c = make_case(references, sources, width, 4, dtype);
          expect_same_sums(c);
          EXPECT_EQ(sum_of(c).size(1), width);
        }
      }
    }
  }
}

TEST(RowSum, RefusesBadInputWithWhoWhatAndGot) {
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
  bad.source = torch::tensor({0, -1, 1}, at::kInt);
  refused(bad, "row_sum: source of references must be within 0 .. 1, got -1");
  bad.source = good.source.to(at::kLong);
  refused(bad, "row_sum: source of references must be int32 [3] like coefficient, got Long [3]");
  bad = good;
  bad.row = good.row.to(at::kInt);
  refused(bad, "row_sum: row must be int64 [U], got Int [2]");
  bad = good;
  bad.coefficient = good.coefficient.to(at::kDouble);
  refused(bad, "row_sum: coefficient must have source's dtype Float, got Double");
  bad.coefficient = good.coefficient.slice(0, 1);
  refused(bad, "row_sum: source of references must be int32 [2] like coefficient, got Int [3]");
  for (const Tensor& wrong : {source.to(at::kHalf), source[0]}) {
    const std::string message =
        wrong.dim() == 1 ? "source must be [S, D], got [4]" : "source must be float32 or float64";
    EXPECT_THAT(harness::message_of([&] { row_sum(good, wrong); }), testing::HasSubstr("row_sum: " + message));
    EXPECT_THAT(harness::message_of([&] { row_sum_definition(good, wrong); }), testing::HasSubstr(message));
  }
}

}  // namespace
}  // namespace loci::row_sum_test
