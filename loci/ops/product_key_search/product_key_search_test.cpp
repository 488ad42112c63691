#include "loci/ops/product_key_search/product_key_search.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>

#include "loci/ops/product_key_search/product_key_search_cpu.h"
#include "loci/ops/product_key_search/product_key_search_definition.h"
#include "loci/ops/product_key_select/product_key_select_cpu.h"
#include "tests/op_harness.h"

// Legend: T tokens, H heads, w width of half a query, n1, n2 sub-keys of the halves, K top_k, A addresses.

namespace loci::product_key_search_test {
namespace {

using harness::same_bits;
using harness::strided;
using ::testing::HasSubstr;
using torch::Tensor;

struct Case {
  int64_t T, H, w, n1, n2, K, A;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "T " << c.T << " H " << c.H << " w " << c.w << " n1 " << c.n1 << " n2 " << c.n2 << " K " << c.K << " A "
             << c.A;
}

struct Inputs {
  Tensor query, keys1, keys2;
};

// Small integers: every product and sum is exact in any order and dtype, so results are comparable bit for bit.
Inputs integers(const Case& c, torch::ScalarType type) {
  const auto make = [&](std::vector<int64_t> sizes) { return torch::randint(-3, 4, sizes, torch::kDouble).to(type); };
  return {make({c.T, c.H, 2, c.w}), make({c.H, c.n1, c.w}), make({c.H, c.n2, c.w})};
}

Inputs normal(const Case& c, torch::ScalarType type) {
  const auto make = [&](std::vector<int64_t> sizes) { return torch::randn(sizes, torch::kDouble).to(type); };
  return {make({c.T, c.H, 2, c.w}), make({c.H, c.n1, c.w}), make({c.H, c.n2, c.w})};
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (int64_t size : harness::kSizes) {
    if (size > 0) {
      list.push_back({5, 2, size, 6, 7, 4, 42});
      list.push_back({3, 2, 5, size, size + 1, std::min<int64_t>(size, 9), size * (size + 1)});
      list.push_back({2, size, 3, 5, 4, 20, 20});
    }
    list.push_back({size, 3, 8, 9, 8, 10, 70});
  }
  return list;
}

constexpr std::array<bool, 3> kAll = {true, true, true};
const auto kTypes = {torch::kDouble, torch::kFloat, torch::kBFloat16, torch::kHalf};

TEST(ProductKeySearch, EqualsItsDefinitionAtEveryLevel) {
  torch::manual_seed(0);
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::PrintToString(c));
    for (auto type : kTypes) {
      const Inputs in = integers(c, type);
      const auto [score, index] = product_key_search_definition(in.query, in.keys1, in.keys2, c.K, c.A);
      EXPECT_EQ(score.scalar_type(), type == torch::kDouble ? torch::kDouble : torch::kFloat);
      for (CpuLevel level : cpu_levels()) {
        const auto [got_score, got_index] =
            product_key_search_cpu(strided(in.query), strided(in.keys1), in.keys2, c.K, c.A, level);
        ASSERT_TRUE(torch::equal(got_index, index)) << name_of(level);
        ASSERT_TRUE(same_bits(got_score, score)) << name_of(level);
      }
    }
  }
}

TEST(ProductKeySearch, EqualsItsDefinitionOverSeveralBlocksOfTokens) {
  torch::manual_seed(6);
  for (const int64_t T : {1, 4, 5, 47, 48, 49, 97, 300}) {
    const Case c{T, 2, 4, 256, 255, 8, 256 * 255 - 1};
    const Inputs in = integers(c, torch::kFloat);
    const auto [score, index] = product_key_search_definition(in.query, in.keys1, in.keys2, c.K, c.A);
    for (CpuLevel level : cpu_levels()) {
      const auto [got_score, got_index] = product_key_search_cpu(in.query, in.keys1, in.keys2, c.K, c.A, level);
      ASSERT_TRUE(torch::equal(got_index, index)) << T << name_of(level);
      ASSERT_TRUE(same_bits(got_score, score)) << T << name_of(level);
    }
  }
}

// Queries in a view of a larger tensor, as a layer may hand them over.
TEST(ProductKeySearch, ReadsQueriesOfAnyStrides) {
  torch::manual_seed(7);
  const Case c{50, 3, 8, 20, 20, 6, 400};
  const Inputs in = integers(c, torch::kFloat);
  const Tensor turned = in.query.permute({1, 2, 0, 3}).contiguous().permute({2, 0, 1, 3});
  const auto [score, index] = product_key_search(in.query, in.keys1, in.keys2, c.K, c.A);
  const auto [got_score, got_index] = product_key_search(turned, in.keys1, in.keys2, c.K, c.A);
  EXPECT_TRUE(torch::equal(got_index, index));
  EXPECT_TRUE(same_bits(got_score, score));
}

// With one sub-key in the second half that is zero, the scores found are the sub-scores of the first: they keep the
// error rule, and the order is that of the select operator on them.
TEST(ProductKeySearch, SubScoresKeepTheErrorRuleAndAreSearchedExactly) {
  torch::manual_seed(8);
  for (const int64_t T : {3, 60}) {
    for (const int64_t w : {1, 7, 31, 64, 128, 129}) {
      for (auto type : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
        const Case c{T, 2, w, 37, 1, 37, 37};
        Inputs in = normal(c, type);
        in.keys2.zero_();
        const auto all = [&](const Tensor& score, const Tensor& index) {  // by sub-key
          return torch::zeros_like(score).scatter(2, index, score);
        };
        const auto wide = [](const Tensor& x) { return x.to(torch::kDouble); };
        const auto [score, index] = product_key_search_definition(in.query, in.keys1, in.keys2, c.K, c.A);
        const auto [exact_score, exact_index] =
            product_key_search_definition(wide(in.query), wide(in.keys1), wide(in.keys2), c.K, c.A);
        for (CpuLevel level : cpu_levels()) {
          const auto [got, got_index] = product_key_search_cpu(in.query, in.keys1, in.keys2, c.K, c.A, level);
          harness::expect_error_rule(all(got, got_index), all(score, index), all(exact_score, exact_index));
          const auto [selected, chosen] =
              product_key_select_cpu(all(got, got_index), torch::zeros({c.T, c.H, 1}), c.K, c.A, level);
          EXPECT_TRUE(torch::equal(got_index, chosen));
          EXPECT_TRUE(same_bits(got, selected));
        }
      }
    }
  }
}

// A NaN in a query reaches all scores of its head, one in a key those of the key.
TEST(ProductKeySearch, PutsNanOnTop) {
  for (const int64_t T : {2, 60}) {
    Inputs in = normal({T, 2, 8, 9, 9, 5, 81}, torch::kFloat);
    in.query[1][0][0][3] = NAN;
    in.keys1[1][4][2] = NAN;
    const Tensor expected = std::get<1>(product_key_search_definition(in.query, in.keys1, in.keys2, 5, 81));
    for (CpuLevel level : cpu_levels()) {
      const auto [score, index] = product_key_search_cpu(in.query, in.keys1, in.keys2, 5, 81, level);
      EXPECT_TRUE(torch::equal(index, expected));
      EXPECT_TRUE(score[1][0].isnan().all().item<bool>());
      EXPECT_FALSE(score[0][0].isnan().any().item<bool>());
      EXPECT_TRUE(score.select(1, 1).isnan().all().item<bool>());
      EXPECT_TRUE((index.select(1, 1).div(9, "floor") == 4).all().item<bool>());
    }
  }
}

TEST(ProductKeySearch, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(9);
  for (const int64_t T : {1, 3, 301}) {
    const Case c{T, 4, 64, 512, 500, 16, 250000};
    const Inputs in = normal(c, torch::kFloat);
    harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> {
      const auto [score, index] = product_key_search(in.query, in.keys1, in.keys2, c.K, c.A);
      return {score, index};
    });
  }
}

TEST(ProductKeySearch, GradientsEqualTheDefinitionAndKeepTheErrorRule) {
  torch::manual_seed(1);
  std::vector<Case> list = cases();
  list.push_back({1100, 2, 40, 6, 7, 4, 42});  // two sums of key gradients
  for (const Case& c : list) {
    SCOPED_TRACE(::testing::PrintToString(c));
    for (auto type : kTypes) {
      const Inputs exact_in = integers(c, type), in = normal(c, type);
      const Tensor index = std::get<1>(product_key_search(in.query, in.keys1, in.keys2, c.K, c.A));
      const auto real = type == torch::kDouble ? torch::kDouble : torch::kFloat;
      const Tensor whole = torch::randint(-2, 3, index.sizes(), real), grad = torch::randn(index.sizes(), real);
      const auto wide = [](const Tensor& x) { return x.to(torch::kDouble); };
      const auto three = [](const std::tuple<Tensor, Tensor, Tensor>& x) {
        return std::vector<Tensor>{std::get<0>(x), std::get<1>(x), std::get<2>(x)};
      };
      const auto expected =
          three(search_backward_definition(whole, index, exact_in.query, exact_in.keys1, exact_in.keys2));
      const auto defined = three(search_backward_definition(grad, index, in.query, in.keys1, in.keys2));
      const auto exact =
          three(search_backward_definition(wide(grad), index, wide(in.query), wide(in.keys1), wide(in.keys2)));
      for (CpuLevel level : cpu_levels()) {
        const auto got = three(search_backward_cpu(strided(whole), strided(index), strided(exact_in.query),
                                                   exact_in.keys1, exact_in.keys2, kAll, level));
        const auto real_got = three(search_backward_cpu(grad, index, in.query, in.keys1, in.keys2, kAll, level));
        for (size_t i = 0; i < 3; ++i) {
          EXPECT_TRUE(torch::equal(got[i], expected[i])) << i;
          if (type != torch::kDouble) harness::expect_error_rule(real_got[i], defined[i], exact[i]);
        }
      }
    }
  }
}

TEST(ProductKeySearch, GradientsHaveTheSameBitsAtEveryLevel) {
  torch::manual_seed(2);
  const Case c{65, 3, 37, 33, 31, 16, 1000};
  const Inputs in = normal(c, torch::kFloat);
  const auto [score, index] = product_key_search(in.query, in.keys1, in.keys2, c.K, c.A);
  const Tensor grad = torch::randn_like(score);
  const auto [query, keys1, keys2] =
      search_backward_cpu(grad, index, in.query, in.keys1, in.keys2, kAll, CpuLevel::base);
  for (CpuLevel level : cpu_levels()) {
    const auto [got, got1, got2] = search_backward_cpu(grad, index, in.query, in.keys1, in.keys2, kAll, level);
    EXPECT_TRUE(same_bits(got, query));
    EXPECT_TRUE(same_bits(got1, keys1));
    EXPECT_TRUE(same_bits(got2, keys2));
  }
}

TEST(ProductKeySearch, GradientEqualsThatOfTheDefinitionAndFiniteDifferences) {
  torch::manual_seed(3);
  const Case c{3, 2, 4, 5, 6, 4, 29};
  const Inputs in = normal(c, torch::kDouble);
  const std::vector<Tensor> inputs = {in.query.clone().set_requires_grad(true),
                                      in.keys1.clone().set_requires_grad(true),
                                      in.keys2.clone().set_requires_grad(true)};
  const auto registered = [&](const std::vector<Tensor>& x) {
    return std::get<0>(product_key_search(x[0], x[1], x[2], c.K, c.A));
  };
  const auto definition = [&](const std::vector<Tensor>& x) {
    return std::get<0>(product_key_search_definition(x[0], x[1], x[2], c.K, c.A));
  };
  const Tensor cotangent = torch::randn({c.T, c.H, c.K}, torch::kDouble);
  const auto got = harness::gradients(registered, inputs, cotangent);
  const auto expected = harness::gradients(definition, inputs, cotangent);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(torch::allclose(got[i], expected[i], 1e-12, 1e-13));
  harness::expect_finite_differences(registered, inputs);
}

// Each gradient has the same bits whether the others are made or not.
TEST(ProductKeySearch, MakesTheNeededGradientsAlone) {
  torch::manual_seed(10);
  const Inputs in = normal({70, 2, 9, 12, 13, 5, 150}, torch::kFloat);
  const auto [score, index] = product_key_search(in.query, in.keys1, in.keys2, 5, 150);
  const Tensor grad = torch::randn_like(score);
  const auto three = [](const std::tuple<Tensor, Tensor, Tensor>& x) {
    return std::vector<Tensor>{std::get<0>(x), std::get<1>(x), std::get<2>(x)};
  };
  const auto all = three(product_key_search_backward(grad, index, in.query, in.keys1, in.keys2));
  const auto defined = three(search_backward_definition(grad, index, in.query, in.keys1, in.keys2));
  for (int mask = 0; mask < 8; ++mask) {
    const std::array<bool, 3> needed = {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0};
    const auto got = three(product_key_search_backward(grad, index, in.query, in.keys1, in.keys2, needed));
    const auto slow = three(search_backward_definition(grad, index, in.query, in.keys1, in.keys2, needed));
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(got[i].defined(), needed[i]);
      EXPECT_EQ(slow[i].defined(), needed[i]);
      if (!needed[i]) continue;
      EXPECT_TRUE(same_bits(got[i], all[i]));
      EXPECT_TRUE(same_bits(slow[i], defined[i]));
    }
  }
}

TEST(ProductKeySearch, FrozenKeysGetNoGradient) {
  const Inputs in = normal({3, 2, 4, 5, 6, 4, 30}, torch::kFloat);
  const Tensor query = in.query.clone().set_requires_grad(true);
  std::get<0>(product_key_search(query, in.keys1, in.keys2, 4, 30)).sum().backward();
  EXPECT_TRUE(query.grad().defined());
  EXPECT_FALSE(in.keys1.grad().defined());
}

TEST(ProductKeySearch, KeepsItsPrecisionUnderAutocast) {
  torch::manual_seed(4);
  const Inputs in = normal({9, 2, 16, 12, 12, 5, 144}, torch::kFloat);
  const auto [score, index] = product_key_search(in.query, in.keys1, in.keys2, 5, 144);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const auto [cast_score, cast_index] = product_key_search(in.query, in.keys1, in.keys2, 5, 144);
  const auto [defined_score, defined_index] = product_key_search_definition(in.query, in.keys1, in.keys2, 5, 144);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_TRUE(same_bits(cast_score, score));
  EXPECT_TRUE(torch::equal(cast_index, index));
  EXPECT_EQ(defined_score.scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::allclose(defined_score, score, 1e-5, 1e-5));
}

TEST(ProductKeySearch, GradientsHaveTheSameBitsForAnyThreadCount) {
  torch::manual_seed(5);
  for (const int64_t T : {301, 2500}) {
    const Case c{T, 3, 37, 33, 31, 16, 1000};
    const Inputs in = normal(c, torch::kFloat);
    const auto [score, index] = product_key_search(in.query, in.keys1, in.keys2, c.K, c.A);
    const Tensor grad = torch::randn_like(score), chosen = index;
    harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> {
      const auto [query, keys1, keys2] = product_key_search_backward(grad, chosen, in.query, in.keys1, in.keys2);
      return {query, keys1, keys2};
    });
  }
}

// In whole numbers, so that indices agree on every device.
TEST(ProductKeySearch, AnswersOnEveryDevice) {
  torch::manual_seed(11);
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::PrintToString(c));
    const auto run = [&](const std::vector<Tensor>& x) -> std::vector<Tensor> {
      const auto [score, index] = product_key_search(x[0], x[1], x[2], c.K, c.A);
      const auto [query, keys1, keys2] = product_key_search_backward(score, index, x[0], x[1], x[2]);
      const auto [none, keys1_alone, nothing] =
          product_key_search_backward(score, index, x[0], x[1], x[2], {false, true, false});
      return {score, index, query, keys1, keys2, none, keys1_alone, nothing};
    };
    for (auto type : kTypes) {
      const Inputs in = integers(c, type);
      harness::expect_the_same_on_every_device(run, {in.query, in.keys1, in.keys2}, 1e-2);
    }
  }
}

TEST(ProductKeySearch, RefusesBadInputInThreeParts) {
  const Inputs in = normal({4, 2, 8, 5, 6, 3, 30}, torch::kFloat);
  const auto message = [](const Tensor& query, const Tensor& keys1, const Tensor& keys2, int64_t K, int64_t A) {
    return harness::message_of([&] { product_key_search(query, keys1, keys2, K, A); });
  };
  EXPECT_THAT(message(in.query, in.keys1, in.keys2, 0, 30),
              HasSubstr("product_key_search: top_k must be within 1 .. addresses = 30, got 0"));
  EXPECT_THAT(message(in.query, in.keys1, in.keys2, 3, 31),
              HasSubstr("addresses must be within 1 .. n1 * n2 = 30, got 31"));
  EXPECT_THAT(message(in.query[0], in.keys1, in.keys2, 3, 30), HasSubstr("query must be [T, H, 2, w], got [2, 2, 8]"));
  EXPECT_THAT(message(in.query.to(torch::kInt), in.keys1, in.keys2, 3, 30),
              HasSubstr("query must be float64, float32"));
  EXPECT_THAT(message(in.query.to(torch::kHalf), in.keys1, in.keys2, 3, 30),
              HasSubstr("keys must be Half like query, got Float"));
  EXPECT_THAT(message(in.query, in.keys1, in.keys2.to(torch::kDouble), 3, 30),
              HasSubstr("keys2 must be Float like keys1, got Double"));
  EXPECT_THAT(message(in.query, in.keys1[0], in.keys2, 3, 30),
              HasSubstr("keys must have 3 dimensions [H, n, w], got 2 and 3"));
  EXPECT_THAT(message(in.query, in.keys1, in.keys2.narrow(2, 0, 7), 3, 30),
              HasSubstr("keys2 must agree with keys1 in H and w"));
  EXPECT_THAT(message(in.query.narrow(3, 0, 7), in.keys1, in.keys2, 3, 30),
              HasSubstr("keys must be [H, n, w] = [2, n, 7] like query"));
  const auto backward = [&](const Tensor& grad, const Tensor& index) {
    return harness::message_of([&] { product_key_search_backward(grad, index, in.query, in.keys1, in.keys2); });
  };
  const Tensor grad = torch::zeros({4, 2, 3}), index = torch::full({4, 2, 3}, 30, torch::kLong);
  EXPECT_THAT(backward(grad, index), HasSubstr("product_key_search_backward: index must be within 0 .. 29, got 30"));
  EXPECT_THAT(backward(grad, index - 31), HasSubstr("index must be within 0 .. 29, got -1"));
  EXPECT_THAT(backward(grad, index.to(torch::kInt)), HasSubstr("index must be int64 [T, H, K], got Int [4, 2, 3]"));
  EXPECT_THAT(backward(grad.narrow(2, 0, 2), index), HasSubstr("grad_score must be [4, 2, 3] like index"));
  EXPECT_THAT(backward(grad.to(torch::kDouble), index), HasSubstr("grad_score must be Float, got Double"));
  EXPECT_THAT(backward(grad.narrow(0, 0, 3), index.narrow(0, 0, 3)),
              HasSubstr("index must agree with query in T and H"));
}

TEST(ProductKeySearch, RefusesASecondDerivativeByName) {
  const Inputs in = normal({2, 2, 4, 5, 6, 3, 30}, torch::kFloat);
  for (Tensor wanted : {in.query, in.keys1, in.keys2}) {
    wanted.set_requires_grad(true);
    const Tensor score = std::get<0>(product_key_search(in.query, in.keys1, in.keys2, 3, 30));
    const Tensor grad = torch::autograd::grad({score.square().sum()}, {wanted}, {}, std::nullopt, true)[0];
    EXPECT_THAT(harness::message_of([&] { grad.sum().backward(); }),
                HasSubstr("product_key_search: a second derivative is not implemented"));
    wanted.set_requires_grad(false);
  }
}

}  // namespace
}  // namespace loci::product_key_search_test
