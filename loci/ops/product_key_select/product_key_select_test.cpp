#include "loci/ops/product_key_select/product_key_select.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <random>
#include <set>

#include "loci/ops/product_key_select/product_key_select_cpu.h"
#include "loci/ops/product_key_select/product_key_select_definition.h"
#include "tests/op_harness.h"

// Legend: T tokens, H heads, n1, n2 sub-keys of the halves, K top_k, A addresses.

namespace loci::product_key_select_test {
namespace {

using harness::same_bits;
using harness::strided;
using ::testing::HasSubstr;
using torch::Tensor;

enum class Kind { random, ties, equal, collisions, nan, infinity };

struct Case {
  int64_t T, H, n1, n2, K, A;
  Kind kind;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "T " << c.T << " H " << c.H << " n1 " << c.n1 << " n2 " << c.n2 << " K " << c.K << " A " << c.A
             << " kind " << static_cast<int>(c.kind);
}

// Sub-scores whose sums double holds exactly; `collisions` are sums that float32 rounds to the same number.
Tensor scores(const Case& c, int64_t n, bool first) {
  const Tensor normal = torch::randn({c.T, c.H, n});
  switch (c.kind) {
    case Kind::random:
      return (normal * 0x1p20).round() * 0x1p-20;
    case Kind::ties:
      return (normal * 2).round();
    case Kind::equal:
      return torch::full_like(normal, 0.25);
    case Kind::collisions:
      return first ? normal.round() * 0x1p24 : (normal * 4).round() * 0x1p-2;
    case Kind::nan:
      return torch::where(torch::rand_like(normal) < 0.2, torch::full_like(normal, NAN), normal);
    case Kind::infinity: {
      const Tensor dice = torch::rand_like(normal);
      const Tensor up = torch::where(dice < 0.2, torch::full_like(normal, INFINITY), normal);
      return torch::where(dice > 0.8, torch::full_like(normal, -INFINITY), up);
    }
  }
  return {};
}

// All addresses by (exact sum descending, address ascending).
std::vector<int64_t> brute_force(const Tensor& score1, const Tensor& score2, int64_t K, int64_t A) {
  const Tensor a = score1.to(torch::kDouble).contiguous(), b = score2.to(torch::kDouble).contiguous();
  const double *first = a.const_data_ptr<double>(), *second = b.const_data_ptr<double>();
  const int64_t n2 = b.numel();
  std::vector<int64_t> order(A);
  for (int64_t address = 0; address < A; ++address) order[address] = address;
  const auto sum = [&](int64_t address) { return first[address / n2] + second[address % n2]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) { return sum(x) > sum(y); });
  order.resize(K);
  return order;
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (Kind kind : {Kind::random, Kind::ties, Kind::equal, Kind::collisions, Kind::nan, Kind::infinity}) {
    for (int64_t n : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65}) {
      const int64_t n2 = n + 2;
      for (int64_t K : {int64_t{1}, n, n + 3, n * n2}) {
        if (K > n * n2 || K > 1200) continue;
        list.push_back({2, 3, n, n2, K, n * n2, kind});
        list.push_back({2, 1, n, n2, std::min(K, n * n2 - 1), n * n2 - 1, kind});  // one address is missing
        if (K <= n2) list.push_back({1, 2, n, n2, K, n2, kind});                   // one row of the grid
        if (n > 1 && K <= 7) list.push_back({1, 1, n, n2, 1, 1, kind});
      }
    }
    list.push_back({0, 2, 5, 5, 3, 25, kind});
    list.push_back({3, 0, 5, 5, 3, 25, kind});
  }
  std::erase_if(list, [](const Case& c) { return c.K < 1 || c.A < 1; });
  return list;
}

TEST(ProductKeySelect, EqualsItsDefinitionAtEveryLevel) {
  torch::manual_seed(0);
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::PrintToString(c));
    for (auto type : {torch::kFloat, torch::kDouble}) {
      const Tensor score1 = scores(c, c.n1, true).to(type), score2 = scores(c, c.n2, false).to(type);
      const auto [score, index] = product_key_select_definition(score1, score2, c.K, c.A);
      for (CpuLevel level : cpu_levels()) {
        for (bool odd : {false, true}) {
          const auto [got_score, got_index] =
              product_key_select_cpu(odd ? strided(score1) : score1, odd ? strided(score2) : score2, c.K, c.A, level);
          ASSERT_TRUE(torch::equal(got_index, index)) << name_of(level) << "\n" << got_index << "\n" << index;
          ASSERT_TRUE(same_bits(got_score, score)) << name_of(level);
        }
      }
    }
  }
}

TEST(ProductKeySelect, EqualsBruteForceOverAllAddresses) {
  torch::manual_seed(1);
  std::mt19937_64 dice(1);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(dice() % bound); };
  for (int trial = 0; trial < 2500; ++trial) {  // 20,000 searches
    Case c{4, 2, 1 + below(12), 1 + below(12), 0, 0, static_cast<Kind>(below(4))};
    c.A = below(2) ? c.n1 * c.n2 : 1 + below(c.n1 * c.n2);
    c.K = 1 + below(c.A);
    SCOPED_TRACE(::testing::PrintToString(c));
    const Tensor score1 = scores(c, c.n1, true), score2 = scores(c, c.n2, false);
    const auto [score, index] = product_key_select(score1, score2, c.K, c.A);
    for (int64_t t = 0; t < c.T; ++t) {
      for (int64_t h = 0; h < c.H; ++h) {
        const Tensor row = index[t][h];
        const std::vector<int64_t> got(row.const_data_ptr<int64_t>(), row.const_data_ptr<int64_t>() + c.K);
        ASSERT_EQ(got, brute_force(score1[t][h], score2[t][h], c.K, c.A));
      }
    }
    const Tensor first = index.div(c.n2, "floor");
    ASSERT_TRUE(torch::equal(score, score1.gather(2, first) + score2.gather(2, index - first * c.n2)));
  }
}

TEST(ProductKeySelect, GivesTheLowestAddressesWhenAllScoresAreEqual) {
  const Tensor zero = torch::zeros({1, 1, 9});
  const auto [score, index] = product_key_select(zero, -zero, 20, 81);
  EXPECT_TRUE(torch::equal(index.view(-1), torch::arange(20)));
}

TEST(ProductKeySelect, PutsNanOnTopWithValidDistinctIndices) {
  torch::manual_seed(2);
  for (const Case& c : cases()) {
    if (c.kind != Kind::nan && c.kind != Kind::infinity) continue;
    SCOPED_TRACE(::testing::PrintToString(c));
    const auto [score, index] = product_key_select(scores(c, c.n1, true), scores(c, c.n2, false), c.K, c.A);
    for (int64_t p = 0; p < c.T * c.H; ++p) {
      const Tensor row = index.view({-1, c.K})[p], top = score.view({-1, c.K})[p];
      const std::set<int64_t> distinct(row.const_data_ptr<int64_t>(), row.const_data_ptr<int64_t>() + c.K);
      ASSERT_EQ(static_cast<int64_t>(distinct.size()), c.K);
      ASSERT_GE(*distinct.begin(), 0);
      ASSERT_LT(*distinct.rbegin(), c.A);
      const Tensor nan = top.isnan().to(torch::kInt);
      ASSERT_TRUE(torch::equal(nan, std::get<0>(nan.sort(-1, true)))) << top;
    }
  }
  Tensor one = torch::zeros({1, 1, 5});
  one[0][0][3] = NAN;
  const auto [score, index] = product_key_select(one, torch::zeros({1, 1, 4}), 3, 20);
  EXPECT_TRUE(torch::equal(index.view(-1), torch::tensor({12, 13, 14}, torch::kLong)));
  EXPECT_TRUE(score.isnan().all().item<bool>());
}

// Exactly the pairs of ranks with a * b <= K can win; their number is the specification's c(K).
TEST(ProductKeySelect, LetsEveryPairWinThatCan) {
  for (auto [K, expected] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {2, 3}, {4, 8}, {8, 20}, {16, 50}, {32, 119}, {64, 280}, {128, 645}, {256, 1466}}) {
    int64_t winners = 0;
    for (int64_t a = 1; a <= K; ++a) {
      for (int64_t b = 1; a * b <= K; ++b) {
        // Ranks 1 .. a and 1 .. b tie in front of all others, so that (a, b) is the last of the first a * b.
        const auto front = [&](int64_t ranks) {
          const Tensor rank = torch::arange(K, torch::kFloat);
          return torch::where(rank < ranks, torch::zeros({K}), -1000 - rank).view({1, 1, K});
        };
        const auto [score, index] = product_key_select(front(a), front(b), K, K * K);
        winners += (index == (a - 1) * K + b - 1).any().item<bool>();
      }
    }
    EXPECT_EQ(winners, expected) << "K " << K;
  }
}

TEST(ProductKeySelect, GradientEqualsThatOfTheDefinition) {
  torch::manual_seed(3);
  for (const Case& c : {Case{3, 2, 7, 9, 5, 63, Kind::random}, Case{2, 2, 8, 8, 16, 61, Kind::random}}) {
    const std::vector<Tensor> inputs = {torch::randn({c.T, c.H, c.n1}, torch::kDouble).set_requires_grad(true),
                                        torch::randn({c.T, c.H, c.n2}, torch::kDouble).set_requires_grad(true)};
    const auto registered = [&](const std::vector<Tensor>& x) {
      return std::get<0>(product_key_select(x[0], x[1], c.K, c.A));
    };
    const auto definition = [&](const std::vector<Tensor>& x) {
      return std::get<0>(product_key_select_definition(x[0], x[1], c.K, c.A));
    };
    const Tensor cotangent = torch::randn({c.T, c.H, c.K}, torch::kDouble);
    const auto got = harness::gradients(registered, inputs, cotangent);
    const auto expected = harness::gradients(definition, inputs, cotangent);
    for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(torch::allclose(got[i], expected[i], 1e-12, 1e-14));
    harness::expect_finite_differences(registered, inputs);
  }
}

TEST(ProductKeySelect, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(4);
  const Tensor score1 = torch::randn({37, 3, 33}), score2 = torch::randn({37, 3, 31});
  const Tensor grad = torch::randn({37, 3, 16});
  harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> {
    const auto [score, index] = product_key_select(score1, score2, 16, 1000);
    const auto [grad1, grad2] = product_key_select_backward(grad, index, 33, 31);
    return {score, index, grad1, grad2};
  });
}

TEST(ProductKeySelect, KnowsItsShapesOnMeta) {
  const auto meta = torch::TensorOptions().device(torch::kMeta).dtype(torch::kDouble);
  const auto [score, index] = product_key_select(torch::empty({4, 2, 9}, meta), torch::empty({4, 2, 5}, meta), 7, 44);
  EXPECT_EQ(score.sizes(), (std::vector<int64_t>{4, 2, 7}));
  EXPECT_EQ(score.scalar_type(), torch::kDouble);
  EXPECT_EQ(index.sizes(), (std::vector<int64_t>{4, 2, 7}));
  EXPECT_EQ(index.scalar_type(), torch::kLong);
}

TEST(ProductKeySelect, RefusesBadInputInThreeParts) {
  const Tensor good = torch::zeros({2, 3, 4});
  const auto message = [](const Tensor& score1, const Tensor& score2, int64_t K, int64_t A) {
    return harness::message_of([&] { product_key_select(score1, score2, K, A); });
  };
  EXPECT_THAT(message(good, good, 0, 16),
              HasSubstr("product_key_select: top_k must be within 1 .. addresses = 16, got 0"));
  EXPECT_THAT(message(good, good, 17, 16), HasSubstr("top_k must be within 1 .. addresses = 16, got 17"));
  EXPECT_THAT(message(good, good, 1, 17), HasSubstr("addresses must be within 1 .. n1 * n2 = 16, got 17"));
  EXPECT_THAT(message(good, good, 1, 0), HasSubstr("addresses must be within 1 .. n1 * n2 = 16, got 0"));
  EXPECT_THAT(message(good[0], good, 1, 16), HasSubstr("scores must have 3 dimensions [T, H, n], got 2 and 3"));
  EXPECT_THAT(message(good.to(torch::kHalf), good, 1, 16), HasSubstr("scores must be float32 or float64, got Half"));
  EXPECT_THAT(message(good, good.to(torch::kDouble), 1, 16), HasSubstr("score2 must be Float like score1, got Double"));
  EXPECT_THAT(message(good, torch::zeros({2, 2, 4}), 1, 16), HasSubstr("score2 must agree with score1 in T and H"));
}

TEST(ProductKeySelect, RefusesASecondDerivativeByName) {
  const Tensor score1 = torch::randn({1, 1, 4}).set_requires_grad(true), score2 = torch::randn({1, 1, 4});
  const Tensor score = std::get<0>(product_key_select(score1, score2, 2, 16));
  const Tensor grad = torch::autograd::grad({score.square().sum()}, {score1}, {}, std::nullopt, true)[0];
  EXPECT_THAT(harness::message_of([&] { grad.sum().backward(); }),
              HasSubstr("product_key_select: a second derivative is not implemented"));
}

}  // namespace
}  // namespace loci::product_key_select_test
