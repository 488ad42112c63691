#include "loci/ops/non_local_softmax/non_local_softmax.h"

#include <gmock/gmock.h>

#include "loci/ops/non_local_softmax/non_local_softmax_cpu.h"
#include "loci/ops/non_local_softmax/non_local_softmax_definition.h"
#include "tests/allocations.h"
#include "tests/op_harness.h"
#include "tests/pair_cases.h"

// Legend: B batch, N queries, M keys, I inner width, V width of a value.

namespace loci::non_local_softmax_test {
namespace {

using harness::same_bits;
using torch::Tensor;

constexpr double kScale = 0.7;

Tensor defined_softmax(const std::vector<Tensor>& x) {
  return non_local_softmax_definition(x[0], x[1], x[2], kScale);
}
Tensor fast_softmax(const std::vector<Tensor>& x) {
  return non_local_softmax(x[0], x[1], x[2], kScale);
}

TEST(NonLocalSoftmax, DefinitionIsTheTripleLoop) {
  torch::manual_seed(0);
  for (const auto& size : pair_sizes()) {
    const auto x = pair_inputs(size, torch::kDouble);
    const Tensor loop = loop_over_pairs(x, [](const Tensor& logits) { return torch::softmax(logits * kScale, 0); });
    EXPECT_TRUE(torch::allclose(defined_softmax(x), loop, 1e-12, 1e-12)) << size;
  }
}

TEST(NonLocalSoftmax, KeepsTheErrorRuleWithGradients) {
  torch::manual_seed(1);
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    for (const auto& size : pair_sizes()) {
      expect_pair_error_rule(fast_softmax, defined_softmax, pair_inputs(size, type), size);
    }
  }
}

TEST(NonLocalSoftmax, HasTheSameBitsAtEveryLevelAndForStridedInputs) {
  torch::manual_seed(2);
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    for (const auto& size : pair_sizes()) {
      const auto x = pair_inputs(size, type);
      const Tensor grad = torch::randn({size.B, size.N, size.V}, type);
      const Tensor expected = non_local_softmax_cpu(x[0], x[1], x[2], kScale, CpuLevel::base);
      const auto slopes = non_local_softmax_backward_cpu(grad, x[0], x[1], x[2], kScale, CpuLevel::base);
      for (const CpuLevel level : cpu_levels()) {
        SCOPED_TRACE(::testing::Message() << size << " " << name_of(level));
        const auto wide = harness::strided(x[0]);
        EXPECT_TRUE(same_bits(non_local_softmax_cpu(wide, x[1], x[2], kScale, level), expected));
        const auto got = non_local_softmax_backward_cpu(grad, wide, x[1], x[2], kScale, level);
        EXPECT_TRUE(same_bits(std::get<0>(got), std::get<0>(slopes)));
        EXPECT_TRUE(same_bits(std::get<1>(got), std::get<1>(slopes)));
        EXPECT_TRUE(same_bits(std::get<2>(got), std::get<2>(slopes)));
      }
    }
  }
}

TEST(NonLocalSoftmax, KeepsWeightsThatAreNoMoreThanTheInputs) {
  EXPECT_TRUE(keeps_weights(784, 784, 256, 256));
  EXPECT_TRUE(keeps_weights(48, 48, 8, 8));  // 2,304 and 2 (384 + 768)
  EXPECT_FALSE(keeps_weights(49, 49, 8, 8));
  EXPECT_FALSE(keeps_weights(3136, 784, 256, 256));
  EXPECT_FALSE(keeps_weights(INT64_C(1) << 40, INT64_C(1) << 40, 64, 64));
}

TEST(NonLocalSoftmax, HasFiniteDifferencesAndEveryDevice) {
  torch::manual_seed(3);
  for (const PairSize& size : {PairSize{2, 3, 4, 2, 5}, PairSize{1, 9, 19, 1, 1}}) {
    auto x = pair_inputs(size, torch::kDouble);
    for (Tensor& input : x) input.requires_grad_();
    harness::expect_finite_differences(fast_softmax, x);
    harness::expect_the_same_on_every_device(
        [](const std::vector<Tensor>& in) -> std::vector<Tensor> { return {fast_softmax(in)}; },
        pair_inputs(size, torch::kFloat));
  }
}

// Weights are exact in these cases: the largest logit takes all, or all are equal.
TEST(NonLocalSoftmax, TakesLogitsOfAnySize) {
  for (const int64_t M : {1, 3, 16, 40}) {
    const Tensor phi = torch::zeros({1, M, 1}), g = torch::arange(M, torch::kFloat).view({1, M, 1});
    phi[0][M / 2][0] = 1;
    for (const float logit : {1e4F, 3e38F}) {
      const Tensor y = non_local_softmax(torch::full({1, 2, 1}, logit), phi, g, 1);
      EXPECT_TRUE(torch::equal(y, torch::full({1, 2, 1}, static_cast<float>(M / 2)))) << M << " " << logit;
    }
    const Tensor even = non_local_softmax(torch::full({1, 2, 1}, -1e4F), torch::ones({1, M, 1}), g, 1);
    EXPECT_TRUE(torch::allclose(even, torch::full({1, 2, 1}, 0.5F * static_cast<float>(M - 1)))) << M;
  }
}

TEST(NonLocalSoftmax, PassesOnWhatIsNotANumber) {
  for (const int64_t M : {5, 40}) {
    for (const int64_t at : {int64_t{0}, M / 2, M - 1}) {
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        auto x = pair_inputs({1, 3, M, 1, 2}, torch::kFloat);
        x[0].fill_(1);
        x[1][0][at][0] = bad;
        EXPECT_TRUE(fast_softmax(x).isnan().all().item<bool>()) << M << " " << at;
      }
    }
    auto x = pair_inputs({1, 3, M, 1, 2}, torch::kFloat);
    x[0].fill_(1);
    x[1][0][1][0] = -std::numeric_limits<float>::infinity();
    EXPECT_TRUE(torch::allclose(fast_softmax(x), defined_softmax(x)));
  }
}

TEST(NonLocalSoftmax, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(4);
  for (const PairSize& size :
       {PairSize{1, 300, 700, 24, 40}, PairSize{2, 290, 1100, 64, 64}, PairSize{9, 60, 60, 8, 8}}) {
    const auto x = pair_inputs(size, torch::kFloat);
    harness::expect_same_bits_for_any_thread_count([&] { return result_and_gradients(fast_softmax, x); });
  }
}

TEST(NonLocalSoftmax, AllocatesNoMatrixOfPairs) {
  auto x = pair_inputs({1, 4096, 1024, 8, 8}, torch::kFloat);
  for (Tensor& input : x) input.requires_grad_();
  const int threads = torch::get_num_threads();
  torch::set_num_threads(1);  // the log sees this thread alone
  const auto sizes = allocations_of([&] { fast_softmax(x).sum().backward(); });
  torch::set_num_threads(threads);
  EXPECT_LT(*std::max_element(sizes.begin(), sizes.end()), 4096 * 1024 * 4 / 8);
}

TEST(NonLocalSoftmax, RefusesBadInputInThreeParts) {
  expect_pair_messages("non_local_softmax", fast_softmax);
  const auto x = pair_inputs({2, 7, 5, 3, 4}, torch::kFloat);
  EXPECT_THAT(
      harness::message_of(
          [&] { non_local_softmax_backward_cpu(torch::zeros({2, 7, 3}), x[0], x[1], x[2], 1, CpuLevel::base); }),
      ::testing::HasSubstr("non_local_softmax_backward: grad must be [2, 7, 4] like the result, got [2, 7, 3]"));
}

}  // namespace
}  // namespace loci::non_local_softmax_test
