#include "loci/tasks/binary_network.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <string>
#include <vector>

#include "loci/models/packed_net.h"
#include "loci/train/tensor_file.h"
#include "tests/bright_sides.h"
#include "tests/op_harness.h"
#include "tests/packed_example.h"
#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBinaryRecipe = R"(
task = "binary_network"
[data]
crop_padding = 0
mirror = false
color = "grey"
[model]
hidden = [70, 64]
[train]
batch = 20
precision = "float32"
[optimizer]
learning_rate = 0.01
weight_decay = 0
clip_norm = 0
[optimizer.schedule]
warmup = 0
)";

class BinaryTask : public TaskTest {
 protected:
  BinaryTask() : TaskTest(kBinaryRecipe) { write_bright_sides(folder_.path(), 3); }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, folder_.path(), checkpoint);
  }

  TemporaryFolder folder_;
};

// Networks whose every stage differs: a map of words with unused bits, a pool, layers behind a map and behind signs.
const std::vector<std::vector<std::string>> kNetworks = {
    {},
    {"model.hidden=[]"},
    {"model.hidden=[]", "model.convolutions=[5]"},
    {"model.convolutions=[5,70,64]", "model.hidden=[65]"},
    {"model.convolutions=[64,3]", "model.pool_every=1", "model.hidden=[100,10]"},
    {"model.convolutions=[5,70]", "model.norm=shift", "model.activations=sampled"}};

TEST_F(BinaryTask, LearnsToTellHalvesApart) {
  for (const char* setting : {"model.weights=binary", "model.weights=real", "model.activations=sampled",
                              "model.norm=shift", "optimizer.kind=shift_adamax"}) {
    const auto task = make({setting});
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, 60, 60);
    const Evaluation evaluation = evaluate(*task, false);
    EXPECT_GT(evaluation.values[0], 0.9) << setting;
    EXPECT_LT(evaluation.values[1], 0.5) << setting;
    EXPECT_EQ(evaluation.details.at("images"), 60);
  }
}

TEST_F(BinaryTask, WeightsStayWithinOneAndMove) {
  const auto task = make({"optimizer.learning_rate=1"});
  const at::Tensor weight = task->module().named_parameters()["stage0.product.weight"];
  const at::Tensor before = weight.detach().clone();
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 5, 5);
  EXPECT_EQ(weight.abs().max().item<float>(), 1);
  EXPECT_FALSE(weight.equal(before));
}

// The proof of the packed form: the same bits for every image, for networks trained far enough that gains have both
// signs.
TEST_F(BinaryTask, PackedNetworksHaveTheScoresOfTheTrainedOnes) {
  for (const auto& settings : kNetworks) {
    SCOPED_TRACE(::testing::PrintToString(settings));
    const auto task = make(settings);
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, 12, 12);
    const auto& plan = dynamic_cast<const BinaryNetworkPlan&>(*config_->plan);
    BinaryNet network(plan.model_for({8, 8, 1}, 3), 0);
    const auto state = state_of(*task);
    {
      const torch::NoGradGuard guard;
      torch::manual_seed(5);
      for (const auto& parameter : network.named_parameters()) {
        parameter.value().copy_(state.at(parameter.key()));
        if (parameter.key().ends_with("gain")) {
          parameter.value().mul_(torch::randint(-1, 2, parameter.value().sizes()));  // turned, and constants
        }
      }
      for (const auto& buffer : network.named_buffers()) buffer.value().copy_(state.at(buffer.key()));
    }
    network.eval();
    const PackedNet packed(network);
    packed.check("packed");
    const at::Tensor images = torch::randint(0, 256, {40, 1, 8, 8}).to(torch::kFloat) * 2 - 255;
    const torch::NoGradGuard guard;
    const at::Tensor expected = network.forward(images);
    EXPECT_TRUE(harness::same_bits(packed.forward(images), expected));
    expect_scores_of_the_header(packed, images, expected);
    EXPECT_EQ(packed.forward(images.narrow(0, 0, 0)).sizes(), (std::vector<int64_t>{0, 3}));
  }
}

TEST_F(BinaryTask, APackedCheckpointHasTheScoresOfTheRunOnEveryTestImage) {
  for (const auto& settings : kNetworks) {
    SCOPED_TRACE(::testing::PrintToString(settings));
    const auto task = make(settings);
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, 8, 8);
    const Evaluation trained = evaluate(*task, false);
    const CheckpointReader checkpoint(checkpoint_of(*task, *optimizers, 8));
    const auto tensors = config_->plan->pack(checkpoint);
    TaskInputs inputs;
    inputs.data = folder_.path();
    inputs.checkpoint = checkpoint.path();
    inputs.batch = config_->batch();
    inputs.training = false;
    inputs.progress = &progress_;
    const auto packed = config_->plan->make(inputs);
    write_tensors(folder_ / "packed.safetensors", tensors);
    NamedTensors targets;
    for (const auto& buffer : packed->module().named_buffers()) targets.emplace_back(buffer.key(), buffer.value());
    load_tensors(folder_ / "packed.safetensors", targets);
    const Evaluation found = evaluate(*packed, false);
    EXPECT_EQ(found.details.at("scores"), trained.details.at("scores"));
    EXPECT_EQ(found.values, trained.values);
    int64_t bytes = 0;
    for (const auto& [name, tensor] : tensors) {
      if (name != "plan" && name != "image") bytes += static_cast<int64_t>(tensor.nbytes());
    }
    EXPECT_EQ(found.details.at("bytes"), bytes);
    expect_error(ExitCode::usage, "convert: RUN must have been trained, got a packed one",
                 [&] { config_->plan->pack(checkpoint); });
    fs::remove(folder_ / "packed.safetensors");
  }
}

TEST_F(BinaryTask, GoesOnBitForBit) {
  for (const char* setting : {"model.weights=binary", "model.weights=real", "model.activations=sampled",
                              "model.norm=shift", "optimizer.kind=shift_adamax"}) {
    SCOPED_TRACE(setting);
    const std::vector<std::string> settings = {setting, "model.convolutions=[6]"};
    expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make(settings, checkpoint); });
  }
}

// Draws change what training reaches, and an evaluation none of them.
TEST_F(BinaryTask, SampledActivationsAreOfTrainingAlone) {
  const auto task = make({"model.activations=sampled"}), plain = make();
  const auto optimizers = optimizers_of(*task), plain_optimizers = optimizers_of(*plain);
  EXPECT_EQ(evaluate(*task, false).details, evaluate(*plain, false).details);
  train(*task, *optimizers, 0, 3, 3);
  train(*plain, *plain_optimizers, 0, 3, 3);
  const at::Tensor drawn = task->module().named_buffers()["stage1.activation.drawn"];
  EXPECT_EQ(drawn.item<int64_t>(), 3 * 20 * 64);
  EXPECT_NE(evaluate(*task, false).details, evaluate(*plain, false).details);
  EXPECT_EQ(drawn.item<int64_t>(), 3 * 20 * 64);
  EXPECT_FALSE(task->module().named_buffers().contains("stage2.activation.drawn"));
}

TEST_F(BinaryTask, ThePlannedSizesAreThoseOfTheModel) {
  for (const auto& settings : kNetworks) {
    auto more = settings;
    more.emplace_back("data.size=[8,8]");
    const auto task = make(more);
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    auto model = dynamic_cast<const BinaryNetworkPlan&>(*config_->plan).model_for({8, 8, 1}, 3);
    EXPECT_EQ(model.parameters(), dense);
    EXPECT_EQ(model.bytes(false), 4 * dense);
    EXPECT_EQ(evaluate(*task, false).details.at("multiply_adds"), model.multiply_adds());
  }
}

TEST_F(BinaryTask, RefusesNetworksThatCannotBe) {
  expect_error(ExitCode::usage, "model.convolutions must leave a pixel behind the max pools",
               [&] { make({"model.convolutions=[2,2,2,2,2,2]", "model.pool_every=1"}); });
  expect_error(ExitCode::usage, "model.weights must be \"binary\" where model.packed is true",
               [&] { make({"model.weights=real", "model.packed=true"}); });
  expect_error(ExitCode::usage, "model.activations must be left out",
               [&] { make({"model.weights=real", "model.activations=sampled"}); });
  expect_error(ExitCode::usage, "model.packed must be false in training", [&] { make({"model.packed=true"}); });
}

TEST_F(BinaryTask, DamagedPackedNetworksAreRefused) {
  BinaryNetOptions options{.hidden = {70}, .channels = 1, .height = 8, .width = 8, .classes = 3};
  const PackedNet packed(BinaryNet(options, 1));
  packed.named_buffers()["stage1.bits"][0][1].fill_(int64_t{1} << 6);  // 70 signs end before bit 6
  expect_error(ExitCode::input, "file: bits of stage 1 must be 0 behind the last sign", [&] { packed.check("file"); });
  const PackedNet other(BinaryNet(options, 1));
  other.named_buffers()["plan"][0][2].fill_(71);
  expect_error(ExitCode::input, "file: plan and image must be those", [&] { other.check("file"); });
  options.weights = NetWeights::real;
  expect_error(ExitCode::usage, "PackedNet: the network's weights must be binary",
               [&] { PackedNet(BinaryNet(options, 1)); });
}

}  // namespace
}  // namespace loci
