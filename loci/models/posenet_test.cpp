#include "loci/models/posenet.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

PosenetOptions small_posenet(bool memory) {
  PosenetOptions options;
  options.width = 4;
  options.head_width = 12;
  options.has_memory = memory;
  options.memory.rows = 25;
  options.memory.heads = 2;
  options.memory.top_k = 3;
  options.memory.key_width = 8;
  return options;
}

at::Tensor random_frames(int64_t count) {
  torch::manual_seed(1);
  return torch::randn({count, 3, 12, 16});
}

TEST(PosenetTest, CountsAreThoseOfTheModel) {
  for (const bool memory : {false, true}) {
    for (const PoseLossKind kind : {PoseLossKind::beta, PoseLossKind::learned, PoseLossKind::logq}) {
      PosenetOptions options = small_posenet(memory);
      options.loss.kind = kind;
      Posenet model(options, 1);
      int64_t dense = 0;
      for (const NamedParameter& parameter : model.dense_parameters()) dense += parameter.value.numel();
      EXPECT_EQ(options.parameters(), (std::pair<int64_t, int64_t>(dense, memory ? 25 * 12 : 0)));
      const PosePrediction found = model.forward(random_frames(5));
      EXPECT_EQ(found.rotation.sizes(), (std::vector<int64_t>{5, kind == PoseLossKind::logq ? 3 : 4}));
      EXPECT_EQ(found.position.sizes(), (std::vector<int64_t>{5, 3}));
    }
  }
  const PosenetOptions plain;  // head 64 x 512 and 512 x 7 after the residual network
  EXPECT_EQ(plain.multiply_adds(60, 80), resnet_multiply_adds(plain.backbone(), 60, 80) + 64 * 512 + 512 * 7);
}

TEST(PosenetTest, PredictionsStartAtAPose) {
  Posenet model(small_posenet(true), 1);
  Pose pose;
  pose.position = {1, -2, 3};
  pose.rotation = canonical({0.5, 0.5, -0.5, 0.5});
  model.start_at(pose);
  model.eval();
  const PosePrediction found = model.forward(random_frames(4));
  for (const Pose& predicted : model.loss().poses(found.position, found.rotation)) {
    EXPECT_LT(distance_between(predicted.position, pose.position), 0.2);
    EXPECT_LT(degrees_between(predicted.rotation, pose.rotation), 10);
  }
}

TEST(PosenetTest, EveryParameterGetsAGradient) {
  for (const bool memory : {false, true}) {
    Posenet model(small_posenet(memory), 1);
    const PosePrediction found = model.forward(random_frames(6));
    const std::vector<Pose> poses(6, Pose{{1, 2, 3}, canonical({1, 1, 0, 0})});
    const auto [position, rotation] = model.loss().targets(poses);
    model.loss().forward(found.position, found.rotation, position, rotation).backward();
    for (const NamedParameter& parameter : model.dense_parameters()) {
      ASSERT_TRUE(parameter.value.grad().defined()) << parameter.name;
      EXPECT_GT(parameter.value.grad().abs().max().item<double>(), 0) << parameter.name;
    }
    EXPECT_EQ(model.memory() != nullptr, memory);
  }
}

TEST(PosenetTest, DropoutFollowsItsGenerator) {
  Posenet model(small_posenet(false), 1);
  const auto of = [&](uint64_t seed) {
    return model.forward(random_frames(4), at::detail::createCPUGenerator(seed)).position;
  };
  EXPECT_TRUE(of(1).equal(of(1)));
  EXPECT_FALSE(of(1).equal(of(2)));
}

TEST(PosenetTest, PosesAreExactUnderAutocast) {
  Posenet model(small_posenet(false), 1);
  model.eval();
  Pose pose;
  pose.position = {3.001, 0, 0};
  model.start_at(pose);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor position = model.forward(torch::zeros({1, 3, 12, 16})).position;
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(position.scalar_type(), torch::kFloat);
  EXPECT_NEAR(position[0][0].item<double>(), 3.001, 1e-4);  // features of zeros are zeros
}

TEST(PosenetTest, RefusesWhatDoesNotFit) {
  PosenetOptions options = small_posenet(true);
  options.memory.query_kernels = {3};
  expect_error(ExitCode::usage, "memory.query_kernels must be [1]", [&] { options.check(); });
  options = small_posenet(true);
  options.depth = 9;
  expect_error(ExitCode::usage, "depth must be 6 n + 2", [&] { options.check(); });
}

}  // namespace
}  // namespace loci
