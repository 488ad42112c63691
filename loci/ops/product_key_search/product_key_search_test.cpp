#include "loci/ops/product_key_search/product_key_search.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>

#include "loci/ops/product_key_search/product_key_search_cpu.h"
#include "loci/ops/product_key_search/product_key_search_definition.h"
#include "tests/op_harness.h"

// Legend: T tokens, H heads, w width of half a query, n1, n2 sub-keys of the halves, K top_k, A addresses.

namespace loci {
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

const auto kTypes = {torch::kDouble, torch::kFloat, torch::kBFloat16, torch::kHalf};

TEST(ProductKeySearch, EqualsItsDefinitionAtEveryLevel) {
  torch::manual_seed(0);
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::PrintToString(c));
    for (auto type : kTypes) {
      const Inputs in = integers(c, type);
      const auto [score, index] = product_key_search_definition(in.query, in.keys1, in.keys2, c.K, c.A);
      EXPECT_EQ(score.scalar_type(), type == torch::kDouble ? torch::kDouble : torch::kFloat);
      for (CpuLevel level : harness::levels()) {
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
  const Case c{1100, 2, 4, 256, 255, 8, 256 * 255 - 1};
  const Inputs in = integers(c, torch::kFloat);
  const auto [score, index] = product_key_search_definition(in.query, in.keys1, in.keys2, c.K, c.A);
  const auto [got_score, got_index] = product_key_search(in.query, in.keys1, in.keys2, c.K, c.A);
  EXPECT_TRUE(torch::equal(got_index, index));
  EXPECT_TRUE(same_bits(got_score, score));
}

TEST(ProductKeySearch, GradientsEqualTheDefinitionAndKeepTheErrorRule) {
  torch::manual_seed(1);
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::PrintToString(c));
    for (auto type : kTypes) {
      const Inputs exact_in = integers(c, type), in = normal(c, type);
      const Tensor index = std::get<1>(product_key_search(in.query, in.keys1, in.keys2, c.K, c.A));
      const auto real = type == torch::kDouble ? torch::kDouble : torch::kFloat;
      const Tensor whole = torch::randint(-2, 3, index.sizes(), real), grad = torch::randn(index.sizes(), real);
      const auto wide = [](const Tensor& x) { return x.to(torch::kDouble); };

      const Tensor query = search_backward_query_definition(whole, index, exact_in.keys1, exact_in.keys2);
      const auto [keys1, keys2] = search_backward_keys_definition(whole, index, exact_in.query, c.n1, c.n2);
      const Tensor query_real = search_backward_query_definition(grad, index, in.keys1, in.keys2);
      const Tensor keys_real = std::get<0>(search_backward_keys_definition(grad, index, in.query, c.n1, c.n2));
      const Tensor query_exact = search_backward_query_definition(wide(grad), index, wide(in.keys1), wide(in.keys2));
      const Tensor keys_exact =
          std::get<0>(search_backward_keys_definition(wide(grad), index, wide(in.query), c.n1, c.n2));
      for (CpuLevel level : harness::levels()) {
        EXPECT_TRUE(torch::equal(
            search_backward_query_cpu(strided(whole), strided(index), exact_in.keys1, exact_in.keys2, level), query));
        const auto [got1, got2] = search_backward_keys_cpu(whole, index, strided(exact_in.query), c.n1, c.n2, level);
        EXPECT_TRUE(torch::equal(got1, keys1));
        EXPECT_TRUE(torch::equal(got2, keys2));
        if (type == torch::kDouble) continue;
        harness::expect_error_rule(search_backward_query_cpu(grad, index, in.keys1, in.keys2, level), query_real,
                                   query_exact);
        harness::expect_error_rule(std::get<0>(search_backward_keys_cpu(grad, index, in.query, c.n1, c.n2, level)),
                                   keys_real, keys_exact);
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
  for (CpuLevel level : harness::levels()) {
    EXPECT_TRUE(same_bits(search_backward_query_cpu(grad, index, in.keys1, in.keys2, level),
                          search_backward_query_cpu(grad, index, in.keys1, in.keys2, CpuLevel::base)));
    EXPECT_TRUE(same_bits(std::get<1>(search_backward_keys_cpu(grad, index, in.query, c.n1, c.n2, level)),
                          std::get<1>(search_backward_keys_cpu(grad, index, in.query, c.n1, c.n2, CpuLevel::base))));
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
  const Case c{301, 3, 37, 33, 31, 16, 1000};
  const Inputs in = normal(c, torch::kFloat);
  const auto [score, index] = product_key_search(in.query, in.keys1, in.keys2, c.K, c.A);
  const Tensor grad = torch::randn_like(score), chosen = index;
  harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> {
    const auto [grad1, grad2] = product_key_search_backward_keys(grad, chosen, in.query, c.n1, c.n2);
    return {product_key_search_backward_query(grad, chosen, in.keys1, in.keys2), grad1, grad2};
  });
}

TEST(ProductKeySearch, KnowsItsShapesOnMeta) {
  const auto meta = torch::TensorOptions().device(torch::kMeta).dtype(torch::kBFloat16);
  const Tensor query = torch::empty({4, 2, 2, 8}, meta), keys = torch::empty({2, 5, 8}, meta);
  const auto [score, index] = product_key_search(query, keys, keys, 6, 25);
  EXPECT_EQ(score.sizes(), (std::vector<int64_t>{4, 2, 6}));
  EXPECT_EQ(score.scalar_type(), torch::kFloat);
  EXPECT_EQ(index.scalar_type(), torch::kLong);
  const Tensor grad_query = product_key_search_backward_query(score, index, keys, keys);
  EXPECT_EQ(grad_query.sizes(), query.sizes());
  EXPECT_EQ(grad_query.scalar_type(), torch::kBFloat16);
  const auto [grad1, grad2] = product_key_search_backward_keys(score, index, query, 5, 5);
  EXPECT_EQ(grad1.sizes(), keys.sizes());
  EXPECT_EQ(grad2.scalar_type(), torch::kBFloat16);
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
  const Tensor grad = torch::zeros({4, 2, 3}), index = torch::full({4, 2, 3}, 30, torch::kLong);
  EXPECT_THAT(harness::message_of([&] { product_key_search_backward_query(grad, index, in.keys1, in.keys2); }),
              HasSubstr("index must be within 0 .. 29, got 30"));
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
}  // namespace loci
