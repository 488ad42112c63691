#include "loci/nn/relation/non_local_diagnosis.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include "tests/op_harness.h"

namespace loci::non_local_diagnosis_test {
namespace {

using torch::Tensor;

NonLocal gaussian_line(PairPool pool) {
  NonLocalOptions options;
  options.channels = 2;
  options.dimensions = 1;
  options.form = PairForm::gaussian;
  options.pool = pool;
  return NonLocal("block", options, 1);
}

// Equal positions have even weights: 4 places in a row are 0, 1, 2 or 3 apart.
TEST(NonLocalDiagnosis, OfEvenWeightsOnALine) {
  const NonLocal block = gaussian_line(PairPool::none);
  const auto d = diagnose(block, torch::ones({1, 2, 4}));
  EXPECT_NEAR(d.entropy, 1, 1e-6);
  EXPECT_NEAR(d.largest_weight, 0.25, 1e-6);
  EXPECT_NEAR(d.space_distance, (6 + 4 + 4 + 6) / 16.0, 1e-6);
  EXPECT_EQ(d.time_distance, 0);
  // Of 5 places, pooled cells lie at 0.5 and 2.5.
  const auto pooled = diagnose(gaussian_line(PairPool::before), torch::ones({1, 2, 5}));
  EXPECT_NEAR(pooled.space_distance, (3 + 2 + 2 + 3 + 5) / 10.0, 1e-6);
}

TEST(NonLocalDiagnosis, SaysThatANewBlockAddsNothing) {
  NonLocal block = gaussian_line(PairPool::none);
  const Tensor x = torch::randn({6, 2, 5});
  const Tensor before = block.norm.running_mean.clone();
  auto d = diagnose(block, x);
  EXPECT_EQ(d.residual_ratio, 0);
  EXPECT_EQ(d.largest_scale, 0);
  EXPECT_EQ(warning_of(d, 999), "");
  EXPECT_EQ(warning_of(d, 1000), "block still dead: it adds 0.0e+00 of its input after 1000 steps");
  EXPECT_TRUE(torch::equal(block.norm.running_mean, before));
  const torch::NoGradGuard guard;
  block.norm.gain.fill_(-0.5);
  d = diagnose(block, x);
  EXPECT_GT(d.residual_ratio, 0.01);
  EXPECT_EQ(d.largest_scale, 0.5);
  EXPECT_EQ(warning_of(d, 1000), "");
}

TEST(NonLocalDiagnosis, SaysThatEveryQueryLooksAtOneKey) {
  const NonLocal block = gaussian_line(PairPool::none);
  Tensor x = torch::randn({1, 2, 5});
  x = x / x.norm(2, 1, true) * 1e3;  // squared norms as logits: each position looks at itself
  const auto d = diagnose(block, x);
  EXPECT_TRUE(d.collapsed());
  EXPECT_NEAR(d.largest_weight, 1, 1e-6);
  EXPECT_NEAR(d.space_distance, 0, 1e-6);
  EXPECT_EQ(warning_of(d, 1), "collapsed to one key: every query looks at a single position");
  EXPECT_FALSE(diagnose(block, torch::ones({1, 2, 1})).collapsed());
  x[0].select(1, 3).fill_(0);  // a position without a direction looks everywhere
  const auto mixed = diagnose(block, x);
  EXPECT_FALSE(mixed.collapsed());
  EXPECT_NEAR(mixed.greatest_entropy, 1, 1e-6);
  EXPECT_LT(mixed.entropy, 0.5);
}

TEST(NonLocalDiagnosis, CountsFramesApartFromPixels) {
  NonLocalOptions options;
  options.channels = 2;
  options.dimensions = 3;
  options.form = PairForm::gaussian;
  options.pool = PairPool::none;
  options.domain = PairDomain::time;
  const auto time = diagnose(NonLocal("block", options, 1), torch::ones({2, 2, 3, 4, 4}));
  EXPECT_NEAR(time.time_distance, (3 + 2 + 3) / 9.0, 1e-6);
  EXPECT_EQ(time.space_distance, 0);
  options.domain = PairDomain::space;
  const auto space = diagnose(NonLocal("block", options, 1), torch::ones({2, 2, 3, 1, 2}));
  EXPECT_EQ(space.time_distance, 0);
  EXPECT_NEAR(space.space_distance, 0.5, 1e-6);
}

TEST(NonLocalDiagnosis, RefusesNoSample) {
  const NonLocal block = gaussian_line(PairPool::none);
  EXPECT_THAT(harness::message_of([&] { diagnose(block, torch::ones({0, 2, 4})); }),
              ::testing::HasSubstr("diagnose: x must have a sample, got [0, 2, 4]"));
}

}  // namespace
}  // namespace loci::non_local_diagnosis_test
