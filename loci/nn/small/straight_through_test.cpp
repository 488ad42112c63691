#include "loci/nn/small/straight_through.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "tests/op_harness.h"

namespace loci {
namespace {

using torch::Tensor;

// The rule in a loop, as another implementation.
TEST(StraightThrough, ChoiceGivesEveryScoreItsValueTimesTheGradient) {
  torch::manual_seed(0);
  const Tensor value = torch::randn({3, 2, 4}).requires_grad_(), score = torch::randn({3, 2, 4}).requires_grad_();
  const Tensor y = straight_through_choose(value, score), grad = torch::randn({3, 2});
  const auto got = torch::autograd::grad({y}, {value, score}, {grad});
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 2; ++j) {
      int64_t best = 0;
      for (int64_t k = 1; k < 4; ++k) {
        if (score[i][j][k].item<float>() > score[i][j][best].item<float>()) best = k;
      }
      EXPECT_EQ(y[i][j].item<float>(), value[i][j][best].item<float>());
      for (int64_t k = 0; k < 4; ++k) {
        const float of_result = grad[i][j].item<float>();
        EXPECT_EQ(got[0][i][j][k].item<float>(), k == best ? of_result : 0);
        EXPECT_EQ(got[1][i][j][k].item<float>(), of_result * value[i][j][k].item<float>());
      }
    }
  }
}

TEST(StraightThrough, ChoiceOfOneAndOfEqualOnesIsTheFirst) {
  const Tensor value = torch::tensor({{5.0F, 6.0F, 7.0F}});
  EXPECT_EQ(straight_through_choose(value, torch::tensor({{1.0F, 2.0F, 2.0F}})).item<float>(), 6);
  EXPECT_EQ(straight_through_choose(value.narrow(1, 2, 1), torch::zeros({1, 1})).item<float>(), 7);
  // Of values that stay fixed the scores alone learn.
  const Tensor score = torch::zeros({1, 3}).requires_grad_();
  straight_through_choose(value, score).sum().backward();
  EXPECT_TRUE(torch::equal(score.grad(), value));
}

TEST(StraightThrough, GradientIsScaledAndTheValueIsNot) {
  const Tensor x = torch::tensor({1.5F, -2.0F}).requires_grad_();
  const Tensor y = scale_gradient(x, 0.25);
  EXPECT_TRUE(torch::equal(y, x));
  EXPECT_TRUE(torch::equal(torch::autograd::grad({y.sum()}, {x})[0], torch::full({2}, 0.25F)));
}

TEST(StraightThrough, RefusesBadInputInThreeParts) {
  const auto message = [](const Tensor& value, const Tensor& score) {
    return harness::message_of([&] { straight_through_choose(value, score); });
  };
  const std::string expected =
      "straight_through_choose: value and score must be [.., K] of one floating type with K >= 1";
  EXPECT_THAT(message(torch::zeros({2, 3}), torch::zeros({3})), testing::HasSubstr(expected + ", got [2, 3] of Float"));
  EXPECT_THAT(message(torch::zeros({2, 0}), torch::zeros({2, 0})), testing::HasSubstr(expected));
  EXPECT_THAT(message(torch::zeros({2}), torch::zeros({2}, torch::kDouble)), testing::HasSubstr(expected));
}

}  // namespace
}  // namespace loci
