#include "loci/models/skeleton_net.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include <functional>
#include <string>

#include "loci/base/check.h"
#include "loci/nn/relation/non_local.h"
#include "tests/op_harness.h"

namespace loci::skeleton_net_test {
namespace {

using ::testing::HasSubstr;
using torch::Tensor;

SkeletonNetOptions small_net(const std::function<void(SkeletonNetOptions&)>& change = {}) {
  SkeletonNetOptions options;
  options.width = 6;
  options.residual_width = 5;
  options.frames = 16;
  options.joints = 7;
  options.classes = 3;
  options.dropout = 0;
  options.non_local.pool = PairPool::none;
  if (change) change(options);
  return options;
}

SkeletonNetOptions with_middle(SkeletonMiddle middle, PairDomain domain = PairDomain::spacetime) {
  return small_net([&](auto& o) {
    o.middle = middle;
    o.non_local.domain = domain;
  });
}

TEST(SkeletonNet, HasTheParametersThatAreCounted) {
  for (const SkeletonMiddle middle : {SkeletonMiddle::none, SkeletonMiddle::residual, SkeletonMiddle::non_local}) {
    int64_t parameters = 0;
    const SkeletonNet net(with_middle(middle), 1);
    for (const Tensor& parameter : net.parameters()) parameters += parameter.numel();
    EXPECT_EQ(net.options().parameters(), parameters) << static_cast<int>(middle);
  }
  const SkeletonNetOptions plain = with_middle(SkeletonMiddle::none);
  // 16, 8 and 4 frames; 7 joints; kernels of 5 frames.
  EXPECT_EQ(plain.multiply_adds(), 7 * 5 * 6 * (16 * 2 + 8 * 6 + 4 * 6) + 6 * 7 * 3);
  EXPECT_EQ(with_middle(SkeletonMiddle::residual).multiply_adds() - plain.multiply_adds(), 8 * 7 * 5 * 6 * 10);
}

// All middles begin as the identity.
TEST(SkeletonNet, StartsAsTheSameFunction) {
  const torch::NoGradGuard guard;
  torch::manual_seed(1);
  const Tensor maps = torch::randn({4, 2, 16, 7});
  SkeletonNet plain(with_middle(SkeletonMiddle::none), 1);
  const Tensor expected = plain.forward(maps);
  EXPECT_EQ(expected.sizes(), (std::vector<int64_t>{4, 3}));
  for (const SkeletonMiddle middle : {SkeletonMiddle::residual, SkeletonMiddle::non_local}) {
    SkeletonNet net(with_middle(middle), 1);
    EXPECT_TRUE(harness::same_bits(net.forward(maps), expected)) << static_cast<int>(middle);
  }
}

// Which joints a joint's map depends on: without a middle and over time, itself; `residual` its neighbours; blocks over
// joints, all. It shows in the gradient of the part of a logit that belongs to one joint.
TEST(SkeletonNet, JointsMeetInTheMiddleAlone) {
  torch::manual_seed(2);
  const auto seen = [](const SkeletonNetOptions& options) {
    SkeletonNet net(options, 1);
    net.to(torch::kDouble);
    {
      const torch::NoGradGuard guard;
      for (const Tensor& parameter : net.parameters()) parameter.add_(torch::randn_like(parameter), 0.1);
      net.forward(torch::randn({8, 2, 16, 7}, torch::kDouble));  // moves the statistics
      const Tensor weight = net.named_parameters()["linear_weight"].view({3, 6, 7});
      const Tensor of_joint = torch::zeros_like(weight);
      of_joint.select(2, 3).copy_(weight.select(2, 3));
      weight.copy_(of_joint);  // the logit reads joint 3 alone
    }
    net.eval();
    const Tensor maps = torch::randn({1, 2, 16, 7}, torch::kDouble).requires_grad_();
    net.forward(maps)[0][0].backward();
    std::string joints;
    for (int64_t j = 0; j < 7; ++j) joints += maps.grad().select(3, j).abs().max().item<double>() > 1e-12 ? 'x' : '.';
    return joints;
  };
  EXPECT_EQ(seen(with_middle(SkeletonMiddle::none)), "...x...");
  EXPECT_EQ(seen(with_middle(SkeletonMiddle::residual)), "..xxx..");
  EXPECT_EQ(seen(with_middle(SkeletonMiddle::non_local, PairDomain::time)), "...x...");
  EXPECT_EQ(seen(with_middle(SkeletonMiddle::non_local, PairDomain::space)), "xxxxxxx");
  EXPECT_EQ(seen(with_middle(SkeletonMiddle::non_local)), "xxxxxxx");
}

TEST(SkeletonNet, DropsFeaturesInTrainingByTheGivenGenerator) {
  const torch::NoGradGuard guard;
  SkeletonNet net(small_net([](auto& o) { o.dropout = 0.5; }), 1);
  const Tensor maps = torch::randn({2, 2, 16, 7});
  const auto answer = [&](uint64_t seed) { return net.forward(maps, at::make_generator<at::CPUGeneratorImpl>(seed)); };
  EXPECT_TRUE(torch::equal(answer(1), answer(1)));
  EXPECT_FALSE(torch::equal(answer(1), answer(2)));
  net.eval();
  EXPECT_TRUE(torch::equal(answer(1), answer(2)));
}

TEST(SkeletonNet, RefusesWhatDoesNotFit) {
  const auto refusal = [](const SkeletonNetOptions& options) { return harness::message_of([&] { options.check(); }); };
  EXPECT_THAT(refusal(small_net([](auto& o) { o.joints = 0; })),
              HasSubstr("SkeletonNet: joints must be at least 1, got 0"));
  EXPECT_THAT(refusal(small_net([](auto& o) {
                o.middle = SkeletonMiddle::non_local;
                o.non_local.pool = PairPool::before;
              })),
              HasSubstr("height must be at least the pooling kernel's 2, got 1"));
  SkeletonNet net(small_net(), 1);
  EXPECT_THAT(harness::message_of([&] { net.forward(torch::zeros({1, 2, 16, 8})); }),
              HasSubstr("SkeletonNet: maps must be [B, 2, 16, 7], got [1, 2, 16, 8]"));
}

}  // namespace
}  // namespace loci::skeleton_net_test
