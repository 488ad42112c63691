// How updates reach bfloat16 rows and moments: by stochastic rounding, which is right on average, or to nearest.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "loci/ops/row_update/row_update.h"
#include "tests/op_harness.h"

namespace loci::row_rounding_test {
namespace {

using at::Tensor;

TEST(RowRounding, IsUnbiasedOver10000Draws) {
  // sgd with rate 1 moves 1 to x: the mean of the rounded draws must be x within 4 standard errors.
  for (const float x : {1.0F + 1.0F / 512, 1.003F, 1.0065F, -0.7011F, 3.3e-5F}) {
    const int64_t draws = 10000;
    const Tensor table = torch::zeros({draws / 100, 100}, at::kBFloat16);
    const Tensor row = torch::arange(draws / 100);
    row_update(table, {}, row, torch::full({draws / 100, 100}, -x),
               {.rule = RowRule::sgd, .rate = 1, .seed = 9, .step = 3});
    const double sum = table.to(at::kDouble).sum().item<double>();
    const double below = table.min().item<double>(), above = table.max().item<double>();
    ASSERT_LE(below, x);
    ASSERT_GE(above, x);
    const double gap = above - below;
    const double chance = gap == 0 ? 0 : (x - below) / gap;
    const double error = gap * std::sqrt(chance * (1 - chance) / draws);
    EXPECT_NEAR(sum / draws, x, 4 * error + 1e-12) << x;
  }
}

TEST(RowRounding, DrawsAnewForEachSeedStepRowAndColumn) {
  const auto draw = [](uint64_t seed, int64_t step) {
    const Tensor table = torch::zeros({50, 20}, at::kBFloat16);
    row_update(table, {}, torch::arange(50), torch::full({50, 20}, -1.0F - 1.0F / 256),
               {.rule = RowRule::sgd, .rate = 1, .seed = seed, .step = step});
    return table;
  };
  EXPECT_TRUE(torch::equal(draw(1, 0), draw(1, 0)));
  EXPECT_FALSE(torch::equal(draw(1, 0), draw(2, 0)));
  EXPECT_FALSE(torch::equal(draw(1, 0), draw(1, 1)));
  EXPECT_FALSE(torch::equal(draw(1, 0)[0], draw(1, 0)[1]));
}

TEST(RowRounding, InfinitiesAndNaNStayWhatTheyAre) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto rounding : {RowRounding::stochastic, RowRounding::nearest}) {
    const Tensor table = torch::zeros({1, 3}, at::kBFloat16);
    row_update(table, {}, torch::arange(1), torch::tensor({{infinity, -infinity, std::nanf("")}}),
               {.rule = RowRule::sgd, .rounding = rounding, .rate = 1});
    EXPECT_EQ(table[0][0].item<float>(), -infinity);
    EXPECT_EQ(table[0][1].item<float>(), infinity);
    EXPECT_TRUE(std::isnan(table[0][2].item<float>()));
  }
}

// A second moment in bfloat16 would never change if it were rounded to nearest: a step changes it by 0.001 of itself,
// less than half a unit in the last place.
TEST(RowRounding, MomentsInBfloat16FollowThoseInFloat32OnAverage) {
  const Tensor table = torch::zeros({100, 100}), row = torch::arange(100);
  const auto ones = [](at::ScalarType dtype) { return torch::ones({100, 100}, dtype); };
  RowState state{ones(at::kBFloat16), ones(at::kBFloat16), torch::full({100}, 5000, at::kInt), {}};
  for (int64_t step = 0; step < 200; ++step) {
    row_update(table, state, row, torch::full({100, 100}, 2.0F),
               {.rule = RowRule::adam, .beta1 = 0.99, .beta2 = 0.999, .epsilon = 1e-8, .seed = 9, .step = step});
  }
  const double left1 = std::pow(0.99, 200), left2 = std::pow(0.999, 200);
  // Each step's rounding has a variance of at most (2^-8 of the value)^2 / 4; the mean is over 10,000 independent
  // columns.
  const double error = 4 * std::sqrt(200.0) / 256 / 100;
  EXPECT_NEAR(state.moment1.to(at::kDouble).mean().item<double>(), left1 + 2 * (1 - left1), 2 * error);
  EXPECT_NEAR(state.moment2.to(at::kDouble).mean().item<double>(), left2 + 4 * (1 - left2), 4 * error);
}

}  // namespace
}  // namespace loci::row_rounding_test
