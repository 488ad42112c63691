#include "loci/nn/small/depth_layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "tests/op_harness.h"

namespace loci {
namespace {

using torch::Tensor;

double psi_of(DepthBasis basis, int64_t j, double s, double depth) {
  if (basis == DepthBasis::chebyshev) return std::cos(static_cast<double>(j) * std::acos(2 * s / depth - 1));
  const double angle = 2 * std::numbers::pi * static_cast<double>((j + 1) / 2) * s / depth;
  return j == 0 ? 1 : j % 2 == 1 ? std::cos(angle) : std::sin(angle);
}

// alpha [J, ..] summed in a loop.
Tensor sum_of_terms(const Tensor& alpha, const DepthTerms& terms, double s) {
  Tensor sum = torch::zeros_like(alpha[0]);
  for (int64_t j = 0; j < terms.terms; ++j) sum = sum + alpha[j] * psi_of(terms.basis, j, s, terms.depth);
  return sum;
}

const std::vector<DepthTerms> kTerms = {{DepthBasis::fourier, 1, 1},
                                        {DepthBasis::fourier, 2, 1.5},
                                        {DepthBasis::fourier, 5, 2},
                                        {DepthBasis::chebyshev, 2, 1},
                                        {DepthBasis::chebyshev, 6, 3}};

void randomise(torch::nn::Module& module) {
  const torch::NoGradGuard guard;
  for (const Tensor& parameter : module.parameters()) parameter.normal_();
}

TEST(DepthLayers, LinearIsTheLayerWhoseWeightsAreTheSumOfTheTerms) {
  torch::manual_seed(0);
  for (const DepthTerms& terms : kTerms) {
    DepthLinear layer("layer", 3, 2, terms, 0);
    randomise(layer);
    layer.to(torch::kDouble);
    const Tensor x = torch::randn({4, 3}, torch::kDouble);
    const std::vector<double> depths = {0, 0.3, 0.77, 1};
    Tensor expected = torch::empty({4, 2}, torch::kDouble);
    for (int64_t i = 0; i < 4; ++i) {
      const double s = depths[static_cast<size_t>(i)] * terms.depth;
      expected[i] = torch::linear(x[i], sum_of_terms(layer.weight, terms, s), sum_of_terms(layer.bias, terms, s));
      const Tensor alone = layer.forward(torch::tensor(s, torch::kDouble), x);
      EXPECT_TRUE(torch::allclose(alone[i], expected[i], 0, 1e-12));
    }
    const Tensor own = layer.forward(torch::tensor(depths, torch::kDouble) * terms.depth, x);
    EXPECT_TRUE(torch::allclose(own, expected, 0, 1e-12));
    const Tensor wide = layer.forward(torch::tensor(depths, torch::kDouble) * terms.depth,
                                      x.unsqueeze(1).expand({4, 5, 3}));  // [B, .., K]
    EXPECT_TRUE(torch::allclose(wide.select(1, 4), expected, 0, 1e-12));
  }
}

TEST(DepthLayers, ConvolutionsToo) {
  torch::manual_seed(0);
  for (const DepthTerms& terms : kTerms) {
    DepthConv2d layer("layer", 3, 2, 3, terms, 0);
    randomise(layer);
    layer.to(torch::kDouble);
    const Tensor x = torch::randn({2, 3, 5, 4}, torch::kDouble);
    const Tensor s = torch::tensor({0.2, 0.9}, torch::kDouble) * terms.depth;
    const Tensor own = layer.forward(s, x);
    for (int64_t i = 0; i < 2; ++i) {
      const double at = s[i].item<double>();
      const Tensor expected =
          torch::conv2d(x, sum_of_terms(layer.weight, terms, at), sum_of_terms(layer.bias, terms, at), 1, 1);
      EXPECT_TRUE(torch::allclose(own[i], expected[i], 0, 1e-11));
      EXPECT_TRUE(torch::allclose(layer.forward(s[i], x), expected, 0, 1e-11));
    }
  }
}

TEST(DepthLayers, StartWithoutDepth) {
  DepthLinear layer("layer", 50, 40, {DepthBasis::chebyshev, 4, 1}, 7);
  const Tensor x = torch::randn({3, 50});
  EXPECT_TRUE(layer.forward(torch::tensor(0.1F), x).equal(layer.forward(torch::tensor(0.9F), x)));
  EXPECT_NEAR(layer.weight[0].std().item<double>(), 1 / std::sqrt(50.0), 0.01);
  EXPECT_NEAR(layer.bias[0].std().item<double>(), 1 / std::sqrt(50.0) / std::sqrt(3.0), 0.02);
  EXPECT_TRUE(layer.weight[0].equal(DepthLinear("layer", 50, 40, {}, 7).weight[0]));
}

TEST(DepthLayers, RefuseBadInput) {
  EXPECT_THAT(
      harness::message_of([] { DepthLinear("field.0", 3, 2, {DepthBasis::fourier, 0, 1}, 0); }),
      testing::HasSubstr("field.0: inputs, outputs and terms must be above 0 and the depth not 0, got 3, 2, 0 and 1"));
  EXPECT_THAT(harness::message_of([] { DepthConv2d("c", 3, 2, 2, {}, 0); }),
              testing::HasSubstr("c: the edge must be odd, got 2"));
  const DepthLinear layer("layer", 3, 2, {}, 0);
  EXPECT_THAT(harness::message_of([&] { layer.forward(torch::tensor(0.F), torch::zeros({2, 4})); }),
              testing::HasSubstr("DepthLinear: x must be [B, .., 3] and s [] or [B], got [2, 4] and []"));
}

}  // namespace
}  // namespace loci
