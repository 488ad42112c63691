// Legend: T tokens, C features, P ranks.
#include "loci/nn/batch_norm_over_ranks.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "loci/ops/batch_norm/batch_norm_definition.h"
#include "tests/op_harness.h"
#include "tests/ranks.h"

namespace loci::batch_norm_over_ranks_test {
namespace {

using at::Tensor;

constexpr int64_t kFeatures = 24;

struct Case {
  Tensor x, grad;  // [T, C]
  NormTensors norm;
};

// Later tokens lie elsewhere, so that the slices differ in their means.
Case make_case(int64_t tokens, at::ScalarType type) {
  torch::manual_seed(1);
  const auto numbers = [](at::IntArrayRef sizes) { return torch::randn(sizes, at::kDouble); };
  const Tensor far = torch::linspace(0, 9, tokens, at::kDouble).unsqueeze(1);
  const auto exact = type == at::kDouble ? at::kDouble : at::kFloat;
  return {(numbers({tokens, kFeatures}) * 2 + far).to(type), numbers({tokens, kFeatures}).to(exact),
          NormTensors{numbers(kFeatures).to(exact), numbers(kFeatures).to(exact), numbers(kFeatures).to(exact),
                      (numbers(kFeatures).square() + 0.5).to(exact)}};
}

// y, dx, dgain, dbias and the running statistics of one process.
std::vector<Tensor> of_one_process(const Case& c, at::ScalarType type) {
  const auto exact = type == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor x = c.x.to(type), gain = c.norm.gain.to(exact), bias = c.norm.bias.to(exact),
               mean = c.norm.running_mean.to(exact, false, true),
               variance = c.norm.running_variance.to(exact, false, true);
  const auto [y, statistics] = batch_norm_definition(x, gain, bias, mean, variance, true, kNormMomentum, kNormEpsilon);
  const auto [dx, dgain, dbias] =
      batch_norm_backward_definition(c.grad.to(exact), x, gain, statistics, batch_norm_uses_batch(x, true));
  return {y, dx, dgain, dbias, mean, variance};
}

// The same of ranks, of which rank p has the tokens first[p] .. first[p + 1] - 1: y and dx of all of them, and the sums
// of the gradients of gain and bias.
std::vector<Tensor> of_ranks(const Case& c, const std::vector<int64_t>& first) {
  const auto size = std::ssize(first) - 1;
  std::vector<std::vector<Tensor>> parts(6, std::vector<Tensor>(static_cast<size_t>(size)));
  run_ranks(size, [&](const Ranks& ranks) {
    const auto p = static_cast<size_t>(ranks.rank);
    const auto slice = [&](const Tensor& t) { return t.slice(0, first[p], first[p + 1]).clone(); };
    const auto leaf = [](const Tensor& t) { return t.clone().requires_grad_(); };
    const Tensor x = slice(c.x).requires_grad_();
    const NormTensors norm = {leaf(c.norm.gain), leaf(c.norm.bias), c.norm.running_mean.clone(),
                              c.norm.running_variance.clone()};
    const Tensor y = batch_normalised_over_ranks(x, norm, moments_over_ranks(x, ranks), ranks);
    y.backward(slice(c.grad));
    const std::vector<Tensor> mine = {y.detach(),       x.grad(),          norm.gain.grad(),
                                      norm.bias.grad(), norm.running_mean, norm.running_variance};
    for (size_t i = 0; i < mine.size(); ++i) parts[i][p] = mine[i];
  });
  for (const size_t i : {4, 5}) {
    for (const Tensor& part : parts[i]) EXPECT_TRUE(harness::same_bits(part, parts[i][0]));
  }
  const auto sum = [](const std::vector<Tensor>& of) { return torch::stack(of).sum(0); };
  return {torch::cat(parts[0]), torch::cat(parts[1]), sum(parts[2]), sum(parts[3]), parts[4][0], parts[5][0]};
}

const std::vector<std::vector<int64_t>>& slices() {
  static const std::vector<std::vector<int64_t>> list = {{0, 700, 1000}, {0, 300, 300, 1000}, {0, 0, 40}, {0, 1, 1, 40},
                                                         {0, 1, 2},      {0, 39, 40, 40, 41}, {0, 0, 1},  {0, 0, 0, 0}};
  return list;
}

TEST(BatchNormOverRanks, EqualsOneProcessWithAllTokens) {
  for (const auto& first : slices()) {
    const Case c = make_case(first.back(), at::kDouble);
    const auto got = of_ranks(c, first), expected = of_one_process(c, at::kDouble);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_TRUE(torch::allclose(got[i], expected[i], 1e-9, 1e-10)) << torch::IntArrayRef(first) << ", " << i;
    }
  }
}

TEST(BatchNormOverRanks, KeepsTheErrorRule) {
  for (const auto& first : slices()) {
    if (first.back() < 200) continue;  // the rule compares largest errors, which says nothing of few numbers
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const Case c = make_case(first.back(), type);
      const auto got = of_ranks(c, first), slow = of_one_process(c, type), exact = of_one_process(c, at::kDouble);
      for (size_t i = 0; i < got.size(); ++i) {
        SCOPED_TRACE(std::to_string(i) + " of " + toString(type));
        harness::expect_error_rule(got[i], slow[i], exact[i]);
      }
    }
  }
}

// Squares of numbers this far from 0 would leave nothing of the variance.
TEST(BatchNormOverRanks, MomentsOfTokensFarFromZeroKeepTheirDigits) {
  const Tensor x = make_case(1000, at::kFloat).x + 1e4;
  run_ranks(3, [&](const Ranks& ranks) {
    const std::vector<int64_t> first = {0, 10, 10, 1000};
    const auto p = static_cast<size_t>(ranks.rank);
    const RankMoments moments = moments_over_ranks(x.slice(0, first[p], first[p + 1]), ranks);
    const Tensor exact = x.to(at::kDouble), mean = exact.mean(0);
    EXPECT_EQ(moments.tokens, 1000);
    EXPECT_TRUE(torch::allclose(moments.mean, mean, 1e-9, 0));
    EXPECT_TRUE(torch::allclose(moments.squares, (exact - mean).square().sum(0), 1e-5, 0));
  });
}

TEST(BatchNormOverRanks, OneFeatureMapOfSeveralDimensionsKeepsItsShape) {
  const Tensor x = make_case(5, at::kDouble).x.view({5, 2, 3, 4});
  NormTensors norm = make_case(5, at::kDouble).norm;
  for (Tensor* t : {&norm.gain, &norm.bias, &norm.running_mean, &norm.running_variance}) *t = t->view({2, 3, 4});
  run_ranks(2, [&](const Ranks& ranks) {
    NormTensors mine = norm;
    mine.running_mean = norm.running_mean.clone();
    mine.running_variance = norm.running_variance.clone();
    const Tensor here = x.slice(0, 5 * ranks.rank, 5);  // rank 1 has none
    const Tensor y = batch_normalised_over_ranks(here, mine, moments_over_ranks(here, ranks), ranks);
    EXPECT_EQ(y.sizes(), here.sizes());
    EXPECT_EQ(mine.running_mean.sizes(), norm.running_mean.sizes());
    EXPECT_FALSE(torch::equal(mine.running_mean, norm.running_mean));
  });
}

}  // namespace
}  // namespace loci::batch_norm_over_ranks_test
