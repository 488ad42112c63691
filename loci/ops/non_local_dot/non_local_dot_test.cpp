#include "loci/ops/non_local_dot/non_local_dot.h"

#include <gmock/gmock.h>

#include "loci/ops/non_local_dot/non_local_dot_definition.h"
#include "tests/allocations.h"
#include "tests/op_harness.h"
#include "tests/pair_cases.h"

// Legend: B batch, N queries, M keys, I inner width, V width of a value.

namespace loci::non_local_dot_test {
namespace {

using harness::same_bits;
using ::testing::HasSubstr;
using torch::Tensor;

Tensor defined_dot(const std::vector<Tensor>& x) {
  return non_local_dot_definition(x[0], x[1], x[2]);
}
Tensor fast_dot(const std::vector<Tensor>& x) {
  return non_local_dot(x[0], x[1], x[2]);
}

TEST(NonLocalDot, IsTheTripleLoopInBothOrders) {
  torch::manual_seed(0);
  for (const auto& size : pair_sizes()) {
    const auto x = pair_inputs(size, torch::kDouble);
    const Tensor loop = loop_over_pairs(x, [&](const Tensor& logits) { return logits / size.M; });
    EXPECT_TRUE(torch::allclose(defined_dot(x), loop, 1e-12, 1e-12)) << size;
    EXPECT_TRUE(torch::allclose(fast_dot(x), loop, 1e-12, 1e-12)) << size;
  }
}

TEST(NonLocalDot, KeepsTheErrorRuleWithGradients) {
  torch::manual_seed(1);
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    for (const auto& size : pair_sizes()) expect_pair_error_rule(fast_dot, defined_dot, pair_inputs(size, type), size);
  }
}

TEST(NonLocalDot, HasFiniteDifferencesAndEveryDevice) {
  torch::manual_seed(2);
  for (const PairSize& size : {PairSize{2, 3, 4, 2, 5}, PairSize{1, 9, 8, 2, 2}}) {
    auto x = pair_inputs(size, torch::kDouble);
    for (Tensor& input : x) input.requires_grad_();
    harness::expect_finite_differences(fast_dot, x);
    harness::expect_the_same_on_every_device(
        [](const std::vector<Tensor>& in) -> std::vector<Tensor> { return {fast_dot(in)}; },
        pair_inputs(size, torch::kFloat));
  }
}

// The rule of the specification for V = I: I < 2 N M / (N + M).
TEST(NonLocalDot, AssociatesWhereThatIsCheaper) {
  EXPECT_TRUE(associates(3136, 3136, 256, 256));
  EXPECT_TRUE(associates(784, 784, 512, 512));
  EXPECT_FALSE(associates(784, 196, 512, 512));
  EXPECT_FALSE(associates(49, 49, 49, 49));
  EXPECT_TRUE(associates(INT64_C(1) << 40, INT64_C(1) << 40, 64, 64));
}

TEST(NonLocalDot, AllocatesNoMatrixOfPairsWhereItAssociates) {
  auto x = pair_inputs({1, 1024, 900, 16, 16}, torch::kFloat);
  for (Tensor& input : x) input.requires_grad_();
  const auto sizes = allocations_of([&] { fast_dot(x).sum().backward(); });
  EXPECT_LT(*std::max_element(sizes.begin(), sizes.end()), 1024 * 900 * 4 / 8);
}

TEST(NonLocalDot, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(3);
  for (const PairSize& size : {PairSize{1, 1000, 900, 24, 40}, PairSize{5, 60, 50, 64, 64}}) {
    const auto x = pair_inputs(size, torch::kFloat);
    harness::expect_same_bits_for_any_thread_count([&] { return result_and_gradients(fast_dot, x); });
  }
}

TEST(NonLocalDot, RefusesBadInputInThreeParts) {
  expect_pair_messages("non_local_dot", fast_dot);
}

}  // namespace
}  // namespace loci::non_local_dot_test
