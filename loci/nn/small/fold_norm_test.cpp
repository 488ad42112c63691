#include "loci/nn/small/fold_norm.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>

#include "loci/base/check.h"
#include "loci/nn/small/straight_through.h"
#include "loci/ops/binary_linear/binary_linear.h"
#include "tests/op_harness.h"
#include "tests/temporary_folder.h"

// Legend: O features.

namespace loci {
namespace {

using torch::Tensor;

NormTensors norm_of(const std::vector<float>& gain, const std::vector<float>& bias, const std::vector<float>& mean,
                    const std::vector<float>& variance) {
  return {torch::tensor(gain), torch::tensor(bias), torch::tensor(mean), torch::tensor(variance)};
}

// Every whole number of -most .. most in every feature. [2 most + 1, O]
Tensor all_numbers(int64_t most, int64_t O) {
  return torch::arange(-most, most + 1).unsqueeze(1).expand({2 * most + 1, O}).contiguous();
}

void expect_equal_signs(const NormTensors& norm, int64_t most) {
  const int64_t O = norm.gain.numel();
  const Tensor y = all_numbers(most, O);
  const Tensor expected = straight_through_sign(batch_normalised(y.to(torch::kFloat), norm, false));
  const SignThreshold folded = fold_norm(norm, most);
  const Tensor got = sign_unpack(binary_threshold(y.to(torch::kInt), folded.threshold, folded.turned), O);
  EXPECT_TRUE(torch::equal(got, expected));
  const NormLine line = line_of_norm(norm);
  EXPECT_TRUE(harness::same_bits((y.to(torch::kFloat) - line.mean) * line.factor + line.bias,
                                 batch_normalised(y.to(torch::kFloat), norm, false)));
}

TEST(FoldNorm, HasTheSignOfTheNormForEveryWholeNumber) {
  torch::manual_seed(0);
  for (const int64_t most : {0, 1, 9, 700}) {
    for (const int64_t O : {1, 64, 200}) {
      const Tensor gain = torch::randn({O}) * torch::randint(0, 2, {O});  // zeros too
      expect_equal_signs({gain, torch::randn({O}), torch::randn({O}) * 10, torch::rand({O}) * 50}, most);
    }
  }
}

// Where the norm is 0 at a whole number, or off by a rounding.
TEST(FoldNorm, AgreesAtNumbersOnTheThreshold) {
  torch::manual_seed(1);
  const int64_t O = 500;
  const Tensor at = torch::randint(-50, 51, {O}).to(torch::kFloat), gain = torch::randn({O});
  const Tensor variance = torch::rand({O}) * 9 + 0.1;
  for (const double shift : {0.0, 1e-6, -1e-6}) {
    const Tensor mean = torch::randn({O});
    const Tensor bias = -(at * (1 + shift) - mean) * gain / (variance + kNormEpsilon).sqrt();
    expect_equal_signs({gain, bias, mean, variance}, 60);
  }
}

TEST(FoldNorm, FollowsTheFormulaForBothSignsOfTheGainAndZero) {
  // T = mean - bias * sigma / gain = 5 - 3 * 2 / 2 = 2, 5 - 3 * 2 / -2 = 8; the bias alone.
  const NormTensors norm = norm_of({2, -2, 0, 0, 0}, {3, 3, 1, -1, 0}, {5, 5, 5, 5, 5}, {4, 4, 4, 4, 4});
  const SignThreshold folded = fold_norm(norm, 100);
  EXPECT_TRUE(torch::equal(folded.threshold, torch::tensor({2, 9, -100, 101, -100}, torch::kInt))) << folded.threshold;
  EXPECT_EQ(folded.turned.item<int64_t>(), 0b00010);
  expect_equal_signs(norm, 100);
}

TEST(FoldNorm, RefusesNormsThatAreNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  expect_error(ExitCode::input, "fold_norm: the norm of feature 1 must be finite, got mean 0, factor ",
               [&] { fold_norm(norm_of({1, 1}, {0, nan}, {0, 0}, {1, 1}), 3); });
  expect_error(ExitCode::bug, "fold_norm: most must be 0 to 16777216, got 16777217",
               [&] { fold_norm(norm_of({1}, {0}, {0}, {1}), (1 << 24) + 1); });
}

}  // namespace
}  // namespace loci
