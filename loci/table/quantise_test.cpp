// Legend: N rows, D width.
#include "loci/table/quantise.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>

#include "loci/base/check.h"

namespace loci {
namespace {

using at::Tensor;

void expect_rule(const Tensor& rows) {
  const QuantisedRows q = quantise_rows(rows);
  ASSERT_EQ(q.values.scalar_type(), at::kChar);
  const Tensor scale = q.scale.to(at::kDouble).unsqueeze(1);
  const Tensor error = (rows.to(at::kDouble) - scale * q.values.to(at::kDouble)).abs();
  EXPECT_TRUE((error <= scale / 2).all().item<bool>()) << (error / scale).max();
  EXPECT_LE(q.values.to(at::kInt).abs().max().item<int>(), 127);
}

TEST(QuantiseRows, KeepsEveryValueWithinHalfAScale) {
  torch::manual_seed(1);
  for (const double size : {1e-44, 1e-42, 3e-39, 1e-30, 1.0, 1e30, 1e38}) {
    expect_rule((torch::randn({40, 33}, at::kDouble) * size).clamp(-3e38, 3e38).to(at::kFloat));
  }
  expect_rule(torch::randn({40, 33}).to(at::kBFloat16));
}

TEST(QuantiseRows, ScalesByTheLargestValueAndRoundsHalfToEven) {
  const Tensor rows = torch::tensor({{127.0F, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F}, {0.0F, 0.0F, -0.0F, 0.0F, 0.0F, 0.0F}});
  const QuantisedRows q = quantise_rows(rows);
  EXPECT_TRUE(torch::equal(q.scale, torch::tensor({1.0F, 0.0F})));
  EXPECT_TRUE(torch::equal(q.values, torch::tensor({{127, 0, 2, 2, 0, -2}, {0, 0, 0, 0, 0, 0}}, at::kChar)));
  const Tensor any = torch::randn({50, 9});
  EXPECT_TRUE(torch::equal(quantise_rows(any).scale, any.abs().amax(1) / 127));
}

TEST(QuantiseRows, RefusesWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Tensor rows = torch::ones({2, 3});
    rows[1][2] = bad;
    EXPECT_THROW(quantise_rows(rows), Error);
  }
  EXPECT_THROW(quantise_rows(torch::ones({3})), c10::Error);
}

}  // namespace
}  // namespace loci
