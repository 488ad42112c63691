#include "loci/ops/non_local_concat/non_local_concat.h"

#include <gmock/gmock.h>

#include "loci/ops/non_local_concat/non_local_concat_cpu.h"
#include "loci/ops/non_local_concat/non_local_concat_definition.h"
#include "tests/allocations.h"
#include "tests/op_harness.h"
#include "tests/pair_cases.h"

// Legend: B batch, N queries, M keys, V width of a value.

namespace loci::non_local_concat_test {
namespace {

using harness::same_bits;
using ::testing::HasSubstr;
using torch::Tensor;

std::vector<Tensor> concat_inputs(const PairSize& s, at::ScalarType type) {
  return {torch::randn({s.B, s.N}, type), torch::randn({s.B, s.M}, type), torch::randn({s.B, s.M, s.V}, type)};
}
Tensor defined_concat(const std::vector<Tensor>& x) {
  return non_local_concat_definition(x[0], x[1], x[2]);
}
Tensor fast_concat(const std::vector<Tensor>& x) {
  return non_local_concat(x[0], x[1], x[2]);
}

std::vector<PairSize> concat_sizes() {
  std::vector<PairSize> sizes = pair_sizes();
  sizes.push_back({1, 40, 50, 0, 64});
  sizes.push_back({2, 40, 50, 0, 200});
  sizes.push_back({1, 3, 4, 0, 0});
  return sizes;
}

// f is the relu of w . [theta_i, phi_j], as the paper has it.
TEST(NonLocalConcat, DefinitionIsTheTripleLoopOverConcatenatedEmbeddings) {
  torch::manual_seed(0);
  for (const auto& size : pair_sizes()) {
    const auto x = pair_inputs(size, torch::kDouble);
    const Tensor w = torch::randn({2 * size.I}, torch::kDouble);
    const Tensor y = torch::zeros({size.B, size.N, size.V}, torch::kDouble);
    for (int64_t b = 0; b < size.B; ++b) {
      for (int64_t i = 0; i < size.N; ++i) {
        for (int64_t j = 0; j < size.M; ++j) {
          const Tensor f = torch::relu(w.dot(torch::cat({x[0][b][i], x[1][b][j]})));
          y[b][i] += f * x[2][b][j] / size.M;
        }
      }
    }
    const Tensor a = x[0].matmul(w.narrow(0, 0, size.I)), key = x[1].matmul(w.narrow(0, size.I, size.I));
    EXPECT_TRUE(torch::allclose(defined_concat({a, key, x[2]}), y, 1e-12, 1e-12)) << size;
  }
}

TEST(NonLocalConcat, KeepsTheErrorRuleWithGradients) {
  torch::manual_seed(1);
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    for (const auto& size : concat_sizes()) {
      expect_pair_error_rule(fast_concat, defined_concat, concat_inputs(size, type), size);
    }
  }
}

// A large offset that a and b share with opposite signs leaves the sums as they are, and a float32 P0 would lose them.
TEST(NonLocalConcat, KeepsItsDigitsUnderACommonOffset) {
  torch::manual_seed(2);
  auto x = concat_inputs({1, 200, 300, 0, 64}, torch::kFloat);
  x[0] = (x[0] * 64).round() / 64 + 1000;
  x[1] = (x[1] * 64).round() / 64 - 1000;
  expect_pair_error_rule(fast_concat, defined_concat, x, {1, 200, 300, 0, 64});
}

TEST(NonLocalConcat, HasTheSameBitsAtEveryLevelAndForStridedInputs) {
  torch::manual_seed(3);
  for (const auto& size : concat_sizes()) {
    const auto x = concat_inputs(size, torch::kFloat);
    const Tensor grad = torch::randn({size.B, size.N, size.V});
    const Tensor expected = non_local_concat_cpu(x[0], x[1], x[2], CpuLevel::base);
    const auto slopes = non_local_concat_backward_cpu(grad, x[0], x[1], x[2], CpuLevel::base);
    for (const CpuLevel level : cpu_levels()) {
      SCOPED_TRACE(::testing::Message() << size << " " << name_of(level));
      const Tensor a = harness::strided(x[0]), g = harness::strided(x[2]);
      EXPECT_TRUE(same_bits(non_local_concat_cpu(a, x[1], g, level), expected));
      const auto got = non_local_concat_backward_cpu(grad, a, x[1], g, level);
      EXPECT_TRUE(same_bits(std::get<0>(got), std::get<0>(slopes)));
      EXPECT_TRUE(same_bits(std::get<1>(got), std::get<1>(slopes)));
      EXPECT_TRUE(same_bits(std::get<2>(got), std::get<2>(slopes)));
    }
  }
}

TEST(NonLocalConcat, HasFiniteDifferencesAndEveryDevice) {
  torch::manual_seed(4);
  auto x = concat_inputs({2, 3, 4, 0, 5}, torch::kDouble);
  for (Tensor& input : x) input.requires_grad_();
  harness::expect_finite_differences(fast_concat, x);
  harness::expect_the_same_on_every_device(
      [](const std::vector<Tensor>& in) -> std::vector<Tensor> { return {fast_concat(in)}; },
      concat_inputs({2, 3, 4, 0, 5}, torch::kFloat));
}

// Comparisons are strict: a sum of exactly 0 has neither a value nor a slope.
TEST(NonLocalConcat, HasNoSlopeAtZero) {
  const Tensor a = torch::tensor({{1.F, -1.F, 0.F, -3.F}}), b = torch::tensor({{-1.F, 1.F, 0.F}});
  const Tensor g = torch::ones({1, 3, 2});
  const auto got = result_and_gradients(fast_concat, {a, b, g}),
             expected = result_and_gradients(defined_concat, {a, b, g});
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(torch::allclose(got[i], expected[i])) << i;
  const auto none = result_and_gradients(fast_concat, {a - 10, b, g});
  for (const Tensor& x : none) EXPECT_FALSE(x.any().item<bool>());
  const auto equal = result_and_gradients(fast_concat, {torch::ones({1, 4}), torch::full({1, 3}, 2.F), g});
  EXPECT_TRUE(torch::allclose(equal[0], torch::full({1, 4, 2}, 3.F)));
}

TEST(NonLocalConcat, PassesOnWhatIsNotANumber) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {nan, -nan}) {
    auto x = concat_inputs({1, 5, 6, 0, 3}, torch::kFloat);
    x[1][0][2] = bad;
    EXPECT_TRUE(fast_concat(x).isnan().all().item<bool>());
    x = concat_inputs({1, 5, 6, 0, 3}, torch::kFloat);
    x[0][0][3] = bad;
    const Tensor y = fast_concat(x), expected = defined_concat(x);
    EXPECT_TRUE(torch::equal(y.isnan(), expected.isnan()));
    EXPECT_TRUE(torch::allclose(y, expected, 1e-5, 1e-6, /*equal_nan=*/true));
  }
}

TEST(NonLocalConcat, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(5);
  for (const PairSize& size : {PairSize{1, 300, 700, 0, 200}, PairSize{5, 60, 50, 0, 64}}) {
    const auto x = concat_inputs(size, torch::kFloat);
    harness::expect_same_bits_for_any_thread_count([&] { return result_and_gradients(fast_concat, x); });
  }
}

TEST(NonLocalConcat, AllocatesNoMatrixOfPairs) {
  auto x = concat_inputs({1, 2048, 1024, 0, 8}, torch::kFloat);
  for (Tensor& input : x) input.requires_grad_();
  const auto sizes = allocations_of([&] { fast_concat(x).sum().backward(); });
  EXPECT_LT(*std::max_element(sizes.begin(), sizes.end()), 2048 * 1024 * 4 / 16);
}

TEST(NonLocalConcat, RefusesBadInputInThreeParts) {
  const auto x = concat_inputs({2, 7, 5, 0, 4}, torch::kFloat);
  const auto message = [&](const Tensor& a, const Tensor& b, const Tensor& g) {
    return harness::message_of([&] { fast_concat({a, b, g}); });
  };
  EXPECT_THAT(message(x[0][0], x[1], x[2]),
              HasSubstr("non_local_concat: a must be [B, N] of a floating type, got [7] of Float"));
  EXPECT_THAT(message(x[0], x[1].to(torch::kDouble), x[2]),
              HasSubstr("non_local_concat: b must be Float on cpu like a, got Double on cpu"));
  EXPECT_THAT(message(x[0], x[1].narrow(1, 0, 0), x[2]),
              HasSubstr("non_local_concat: b must be [2, M >= 1], got [2, 0]"));
  EXPECT_THAT(message(x[0], x[1], x[2].narrow(1, 0, 4)),
              HasSubstr("non_local_concat: g must be [2, 5, V], got [2, 4, 4]"));
  EXPECT_THAT(harness::message_of(
                  [&] { non_local_concat_backward_cpu(torch::zeros({2, 7, 3}), x[0], x[1], x[2], CpuLevel::base); }),
              HasSubstr("non_local_concat_backward: grad must be [2, 7, 4] like the result, got [2, 7, 3]"));
}

}  // namespace
}  // namespace loci::non_local_concat_test
