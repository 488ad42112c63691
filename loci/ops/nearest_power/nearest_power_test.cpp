#include "loci/ops/nearest_power/nearest_power.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/op_harness.h"

namespace loci::nearest_power_test {
namespace {

using harness::same_bits;
using ::testing::HasSubstr;
using torch::Tensor;

// The formula in long double, whose logarithm tells neighbours of 2^(e + 1/2) apart.
double by_formula(double x) {
  if (x == 0) return x;
  return std::copysign(std::exp2(static_cast<double>(std::floor(std::log2(std::fabs((long double)x)) + 0.5L))), x);
}

TEST(NearestPower, HasTheNearestExponent) {
  const Tensor x =
      torch::tensor({1.0, 1.4, 1.42, 2.0, 3.0, -0.3, -6.0, 0.1, 0.001, 0.05, 1e-30, -1e30}, torch::kDouble);
  const Tensor expected = torch::tensor(
      {1.0, 1.0, 2.0, 2.0, 4.0, -0.25, -8.0, 0.125, std::exp2(-10), 0.0625, std::exp2(-100), -std::exp2(100)},
      torch::kDouble);
  EXPECT_TRUE(same_bits(nearest_power(x), expected)) << nearest_power(x);
  EXPECT_TRUE(same_bits(nearest_power(x.to(torch::kFloat)), expected.to(torch::kFloat)));
}

TEST(NearestPower, FollowsTheFormulaInBothTypes) {
  torch::manual_seed(0);
  const Tensor x = torch::randn({4000}, torch::kDouble) * torch::exp2(torch::randint(-60, 61, {4000}, torch::kDouble));
  for (const auto type : {torch::kDouble, torch::kFloat}) {
    const Tensor y = nearest_power(harness::strided(x.to(type))).to(torch::kDouble),
                 from = x.to(type).to(torch::kDouble);
    for (int64_t i = 0; i < x.numel(); ++i) {
      ASSERT_EQ(y[i].item<double>(), by_formula(from[i].item<double>())) << from[i].item<double>();
    }
  }
  for (int64_t i = 0; i < 200; ++i) EXPECT_EQ(nearest_power(x[i].item<double>()), by_formula(x[i].item<double>()));
}

// The neighbours of 2^(e + 1/2), which no number is.
TEST(NearestPower, RoundsUpFromTheRootOfTwoOn) {
  for (const double scale : {1.0, -1.0, std::exp2(-90), std::exp2(90)}) {
    const double up = std::nextafter(std::sqrt(2.0), 2), down = std::sqrt(2.0);
    const bool above = static_cast<long double>(down) * down > 2;
    EXPECT_EQ(nearest_power(down * scale), (above ? 2 : 1) * scale);
    EXPECT_EQ(nearest_power(up * scale), 2 * scale);
    const float low = 0x1.6a09e6p0F, high = 0x1.6a09e8p0F;  // with sqrt(2) between them
    const Tensor y = nearest_power(torch::tensor({low, high}) * scale);
    EXPECT_TRUE(torch::equal(y, torch::tensor({1.0F, 2.0F}) * scale)) << y;
  }
}

TEST(NearestPower, KeepsZeroInfinityAndNan) {
  for (const auto type : {torch::kDouble, torch::kFloat}) {
    const double infinite = std::numeric_limits<double>::infinity();
    const Tensor x = torch::tensor({0.0, infinite, -infinite, std::nan(""), -std::nan("")}, type);
    EXPECT_TRUE(same_bits(nearest_power(x), x)) << nearest_power(x);
    EXPECT_TRUE(torch::signbit(nearest_power(torch::tensor({-0.0}, type))).item<bool>());
  }
  const float least = std::numeric_limits<float>::min();
  const Tensor small = nearest_power(torch::tensor({least / 4, least * 0.9F, least}));
  EXPECT_TRUE(torch::equal(small, torch::tensor({0.0F, least, least}))) << small;
}

TEST(NearestPower, PassesItsGradient) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({7}).requires_grad_(), grad = torch::randn({7});
  EXPECT_TRUE(torch::equal(torch::autograd::grad({nearest_power(x)}, {x}, {grad})[0], grad));
}

TEST(NearestPower, AnswersOnEveryDeviceAndRefusesOtherTypes) {
  torch::manual_seed(2);
  const auto run = [](const std::vector<Tensor>& x) -> std::vector<Tensor> { return {nearest_power(x[0])}; };
  harness::expect_the_same_on_every_device(run, {torch::randn({4, 3})}, 0);
  EXPECT_THAT(harness::message_of([] { nearest_power(torch::zeros({2}, torch::kBFloat16)); }),
              HasSubstr("nearest_power: x must be float32 or float64, got BFloat16"));
}

}  // namespace
}  // namespace loci::nearest_power_test
