#include "loci/ops/straight_through_sign/straight_through_sign.h"

#include <gmock/gmock.h>

#include <cmath>

#include "loci/base/random.h"
#include "tests/op_harness.h"

namespace loci::straight_through_sign_test {
namespace {

using harness::same_bits;
using ::testing::HasSubstr;
using torch::Tensor;

Tensor whole_numbers(const std::vector<int64_t>& numbers) {
  return torch::tensor(numbers, torch::kLong);
}

const Tensor& key() {
  static const Tensor numbers = whole_numbers({-5, 77});
  return numbers;
}

TEST(StraightThroughSign, IsNeverZeroAndPassesGradientsWithinOne) {
  const Tensor x = torch::tensor({-2.0F, -1.0F, -0.5F, -0.0F, 0.0F, 0.5F, 1.0F, 1.5F}).requires_grad_();
  const Tensor y = straight_through_sign(x);
  EXPECT_TRUE(torch::equal(y, torch::tensor({-1.0F, -1.0F, -1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F})));
  const Tensor grad = torch::arange(1, 9).to(torch::kFloat);
  const Tensor within = torch::autograd::grad({y}, {x}, {grad})[0];
  EXPECT_TRUE(torch::equal(within, torch::tensor({0.0F, 2.0F, 3.0F, 4.0F, 5.0F, 6.0F, 7.0F, 0.0F})));
  const Tensor whole = torch::autograd::grad({straight_through_sign(x, SignGradient::whole)}, {x}, {grad})[0];
  EXPECT_TRUE(torch::equal(whole, grad));
}

TEST(StraightThroughSign, OfNanIsMinusOneInEveryType) {
  for (const auto type : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    const Tensor x = torch::tensor({std::nan(""), 3.0}, type), expected = torch::tensor({-1.0, 1.0}, type);
    EXPECT_TRUE(same_bits(straight_through_sign(x), expected)) << type;
    EXPECT_TRUE(same_bits(sampled_sign(x, key(), whole_numbers({0})), expected)) << type;
  }
}

// The definition in a loop, of numbers in any memory order.
TEST(StraightThroughSign, SampledSignsComeByCounterInRowMajorOrder) {
  torch::manual_seed(0);
  const CounterRandom random(static_cast<uint64_t>(-5), uint64_t{77});
  for (const auto type : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    const Tensor x = torch::randn({3, 5, 4, 2}).to(type), values = x.to(torch::kDouble).contiguous();
    const Tensor y = sampled_sign(x, key(), whole_numbers({1000})).to(torch::kDouble);
    ASSERT_EQ(y.sizes(), x.sizes());
    for (int64_t i = 0; i < x.numel(); ++i) {
      const double chance = std::min(1.0, std::max(0.0, (values.view(-1)[i].item<double>() + 1) / 2));
      const double expected = random.uniform(1000 + static_cast<uint64_t>(i)) < chance ? 1 : -1;
      ASSERT_EQ(y.contiguous().view(-1)[i].item<double>(), expected) << i;
    }
    for (const Tensor& other : {x.contiguous(at::MemoryFormat::ChannelsLast), harness::strided(x)}) {
      EXPECT_TRUE(same_bits(sampled_sign(other, key(), whole_numbers({1000})), y.to(type)));
    }
  }
}

// Of 40,000 draws the share of +1 is within four standard deviations of its chance; beyond one it is all or nothing.
TEST(StraightThroughSign, SampledSignsHaveTheirChance) {
  constexpr int64_t kDraws = 40'000;
  for (const double value : {-1.5, -1.0, -0.6, 0.0, 0.25, 0.9, 1.0, 7.0}) {
    const Tensor y = sampled_sign(torch::full({kDraws}, value), key(), whole_numbers({0}));
    EXPECT_TRUE(y.abs().eq(1).all().item<bool>());
    const double chance = std::min(1.0, std::max(0.0, (value + 1) / 2));
    EXPECT_NEAR(y.eq(1).to(torch::kDouble).mean().item<double>(), chance, 4 * std::sqrt(chance * (1 - chance) / kDraws))
        << value;
  }
}

// Positions go on from batch to batch, so that a batch may be cut.
TEST(StraightThroughSign, ABatchThatIsCutHasTheSignsOfTheWhole) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({10, 7}), whole = sampled_sign(x, key(), whole_numbers({40}));
  const Tensor first = sampled_sign(x.narrow(0, 0, 4), key(), whole_numbers({40}));
  const Tensor last = sampled_sign(x.narrow(0, 4, 6), key(), whole_numbers({40 + 28}));
  EXPECT_TRUE(torch::equal(torch::cat({first, last}), whole));
  EXPECT_FALSE(torch::equal(sampled_sign(x, key(), whole_numbers({41})), whole));
  EXPECT_FALSE(torch::equal(sampled_sign(x, whole_numbers({-5, 78}), whole_numbers({40})), whole));
}

TEST(StraightThroughSign, SampledSignsPassGradientsWithinOne) {
  const Tensor x = torch::tensor({-2.0F, -1.0F, 0.5F, 1.0F, 1.5F}).requires_grad_();
  const Tensor y = sampled_sign(x, key(), whole_numbers({0}));
  const Tensor grad = torch::autograd::grad({y}, {x}, {torch::arange(1, 6).to(torch::kFloat)})[0];
  EXPECT_TRUE(torch::equal(grad, torch::tensor({0.0F, 2.0F, 3.0F, 4.0F, 0.0F})));
}

TEST(StraightThroughSign, HasTheSameResultsForAnyThreadCount) {
  torch::manual_seed(2);
  const Tensor x = torch::randn({300, 100});
  harness::expect_same_bits_for_any_thread_count(
      [&]() -> std::vector<Tensor> { return {straight_through_sign(x), sampled_sign(x, key(), whole_numbers({9}))}; });
}

TEST(StraightThroughSign, AnswersOnEveryDevice) {
  torch::manual_seed(3);
  const auto run = [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
    return {straight_through_sign(x[0]), sampled_sign(x[0], x[1], x[2])};
  };
  harness::expect_the_same_on_every_device(run, {torch::randn({4, 3}), key(), whole_numbers({2})}, 0);
}

TEST(StraightThroughSign, RefusesBadInputInThreeParts) {
  EXPECT_THAT(harness::message_of([] { straight_through_sign(torch::zeros({2}, torch::kInt)); }),
              HasSubstr("straight_through_sign: x must be of a floating type, got Int"));
  EXPECT_THAT(harness::message_of([] { sampled_sign(torch::zeros({2}), key(), torch::zeros({1})); }),
              HasSubstr("sampled_sign: key must be [2] and first [1] of Long, got [2] of Long and [1] of Float"));
  EXPECT_THAT(harness::message_of([] { sampled_sign(torch::zeros({2}), whole_numbers({1}), whole_numbers({1})); }),
              HasSubstr("got [1] of Long and [1] of Long"));
}

}  // namespace
}  // namespace loci::straight_through_sign_test
