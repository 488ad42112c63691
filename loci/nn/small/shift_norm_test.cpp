#include "loci/nn/small/shift_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "loci/ops/binary_linear/binary_linear.h"
#include "loci/ops/nearest_power/nearest_power.h"
#include "loci/ops/straight_through_sign/straight_through_sign.h"
#include "tests/op_harness.h"

// Legend: T rows, O features.

namespace loci {
namespace {

using torch::Tensor;

double shift_of_number(double z) {
  return z == 0 ? 0 : std::copysign(std::exp2(std::round(std::log2(std::fabs(z)))), z);
}

NormTensors random_norm(int64_t O, at::ScalarType type = torch::kFloat) {
  return {torch::randn({O}, type), torch::randn({O}, type), torch::randn({O}, type) * 5,
          torch::rand({O}, type) * 40 + 0.1};
}

// The formula one number after another.
TEST(ShiftNorm, IsItsFormulaInTraining) {
  torch::manual_seed(0);
  const int64_t T = 37, O = 9;
  for (const auto type : {torch::kFloat, torch::kDouble}) {
    const NormTensors norm = random_norm(O, type);
    const Tensor x = torch::randn({T, O}, type) * 7 + 3, old_mean = norm.running_mean.clone();
    const Tensor old_variance = norm.running_variance.clone(), y = shift_normalised(x, norm, true);
    EXPECT_EQ(y.scalar_type(), type);
    for (int64_t o = 0; o < O; ++o) {
      const auto at = [o](const Tensor& tensor) { return tensor[o].item<double>(); };
      double mean = 0, variance = 0;
      for (int64_t t = 0; t < T; ++t) mean += x[t][o].item<double>() / T;
      for (int64_t t = 0; t < T; ++t) {
        const double c = x[t][o].item<double>() - mean;
        variance += c * shift_of_number(c) / T;
      }
      const double factor = shift_of_number(1 / std::sqrt(variance + kNormEpsilon)) * shift_of_number(at(norm.gain));
      for (int64_t t = 0; t < T; ++t) {
        EXPECT_NEAR(y[t][o].item<double>(), (x[t][o].item<double>() - mean) * factor + at(norm.bias), 2e-4);
      }
      EXPECT_NEAR(at(norm.running_mean), 0.9 * at(old_mean) + 0.1 * mean, 1e-5);
      EXPECT_NEAR(at(norm.running_variance), 0.9 * at(old_variance) + 0.1 * variance, 1e-4);
    }
  }
}

// AP2 as the identity in the gradient: that of the same formula with the powers as constants plus those of the numbers
// in their place.
TEST(ShiftNorm, PassesGradientsThroughItsPowers) {
  torch::manual_seed(1);
  const NormTensors norm = random_norm(4, torch::kDouble);
  const Tensor x = torch::randn({6, 4}, torch::kDouble).requires_grad_(), grad = torch::randn({6, 4}, torch::kDouble);
  const Tensor gain = norm.gain.requires_grad_(), bias = norm.bias.requires_grad_();
  const auto got = torch::autograd::grad({shift_normalised(x, norm, true)}, {x, gain, bias}, {grad});
  const auto through = [](const Tensor& z) { return z + (nearest_power(z) - z).detach(); };
  const Tensor c = x - x.mean(0), root = (c * through(c)).mean(0).add(kNormEpsilon).rsqrt();
  const auto expected = torch::autograd::grad({c * (through(root) * through(gain)) + bias}, {x, gain, bias}, {grad});
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(torch::allclose(got[i], expected[i], 1e-9, 1e-12)) << i;
}

// Both signs of the gain and 0, thresholds on whole numbers: the sign is the same for every whole number.
TEST(ShiftNorm, FoldsToThresholdsThatAreExact) {
  torch::manual_seed(2);
  for (const int64_t most : {0, 9, 700}) {
    const int64_t O = 200;
    NormTensors norm = random_norm(O);
    norm.gain.mul_(torch::randint(0, 2, {O}));
    norm.bias.slice(0, 0, 100).zero_();
    norm.running_mean.slice(0, 0, 50).round_();
    const Tensor y = torch::arange(-most, most + 1).unsqueeze(1).expand({2 * most + 1, O}).contiguous();
    const Tensor normal = shift_normalised(y.to(torch::kFloat), norm, false);
    const NormLine line = line_of_shift_norm(norm);
    EXPECT_TRUE(harness::same_bits((y.to(torch::kFloat) - line.mean) * line.factor + line.bias, normal));
    EXPECT_TRUE(torch::equal(nearest_power(line.factor), line.factor));
    const SignThreshold folded = fold_line(line, most);
    const Tensor signs = sign_unpack(binary_threshold(y.to(torch::kInt), folded.threshold, folded.turned), O);
    EXPECT_TRUE(torch::equal(signs, straight_through_sign(normal)));
  }
}

TEST(ShiftNorm, RefusesBadInputInThreeParts) {
  const NormTensors norm = random_norm(4);
  EXPECT_THAT(harness::message_of([&] { shift_normalised(torch::zeros({2, 3}), norm, false); }),
              testing::HasSubstr("shift_normalised: x must be [T, 4] of a floating type, got [2, 3] of Float"));
  EXPECT_THAT(harness::message_of([&] { shift_normalised(torch::zeros({0, 4}), norm, true); }),
              testing::HasSubstr("shift_normalised: training must have at least 1 row, got 0"));
}

}  // namespace
}  // namespace loci
