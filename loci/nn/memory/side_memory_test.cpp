// Legend: B batch, C channels, D width of a row.
#include "loci/nn/memory/side_memory.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "tests/feature_maps.h"
#include "tests/op_harness.h"
#include "tests/row_gradient.h"
#include "tests/temporary_folder.h"

namespace loci::side_memory_test {
namespace {

using at::Tensor;

constexpr int64_t kChannels = 6, kRowWidth = 9, kRows = 49;

using Side = BuiltMemory<SideMemory>;

Side make_side(at::ScalarType type = at::kFloat, double deviation = 1, const MapChange& change = {}) {
  return built_on_table<SideMemory>("side", small_map_options(kChannels, change), kRows, kRowWidth, type, deviation);
}

TEST(SideMemory, InsertedIntoATrainedNetworkItLeavesTheOutputBitIdentical) {
  torch::manual_seed(2);
  torch::nn::Sequential first(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, kChannels, 3).padding(1)),
                              torch::nn::BatchNorm2d(kChannels), torch::nn::ReLU());
  torch::nn::Sequential second(torch::nn::AdaptiveAvgPool2d(1), torch::nn::Flatten(), torch::nn::Linear(kChannels, 4));
  std::vector<Tensor> parameters = first->parameters();
  for (const Tensor& parameter : second->parameters()) parameters.push_back(parameter);
  torch::optim::SGD optimizer(parameters, 0.1);
  for (int step = 0; step < 5; ++step) {
    optimizer.zero_grad();
    const Tensor score = second->forward(first->forward(torch::randn({16, 3, 5, 5})));
    torch::nn::functional::cross_entropy(score, torch::randint(4, {16})).backward();
    optimizer.step();
  }
  const Side side = make_side();
  const torch::NoGradGuard guard;
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const Tensor x = torch::randn({4, 3, 5, 5}).contiguous(format);
    for (const bool training : {true, false}) {
      first->train(training);
      side.memory->train(training);
      const Tensor before = first->forward(x), after = side.memory->forward(before);
      EXPECT_TRUE(harness::same_bits(after, before));
      EXPECT_EQ(after.strides(), before.strides());
      EXPECT_TRUE(harness::same_bits(second->forward(after), second->forward(before)));
    }
  }
}

TEST(SideMemory, IsTheFormula) {
  const Side side = make_side(at::kDouble);
  SideMemory& m = *side.memory;
  const torch::NoGradGuard guard;
  m.norm.gain.normal_();
  m.norm.bias.normal_();
  const Tensor x = torch::randn({3, kChannels, 4, 5}, at::kDouble);
  const Tensor read = m.map->forward(x).movedim(1, -1);         // [B, height, width, D]
  const Tensor z = at::matmul(read, m.output_weight.t());       // [B, height, width, C]
  const Tensor centred = z - z.mean(at::IntArrayRef{0, 1, 2});  // in training over all positions
  const Tensor normed = centred / (centred.square().mean(at::IntArrayRef{0, 1, 2}) + 1e-5).sqrt();
  const Tensor expected = x + (normed * m.norm.gain + m.norm.bias).movedim(-1, 1);
  EXPECT_TRUE(torch::allclose(m.forward(x), expected, 1e-10, 1e-12));
}

double largest(const Tensor& gradient) {
  return gradient.defined() ? gradient.abs().max().item<double>() : 0;
}

TEST(SideMemory, TheFirstStepMovesTheScaleTheSecondEverything) {
  const Side side = make_side(at::kDouble);
  SideMemory& m = *side.memory;
  const Tensor x = torch::randn({4, kChannels, 3, 3}, at::kDouble), direction = torch::randn_like(x);
  for (const bool first : {true, false}) {
    m.zero_grad();
    side.table->store().references().clear();
    (m.forward(x) * direction).sum().backward();
    EXPECT_GT(largest(m.norm.gain.grad()), 0);
    EXPECT_GT(largest(m.norm.bias.grad()), 0);
    for (const Tensor& later : {m.output_weight, m.map->memory->keys1, m.map->memory->norm.gain}) {
      EXPECT_EQ(largest(later.grad()) == 0, first);
    }
    EXPECT_EQ(dense_gradient(*side.table).abs().max().item<double>() == 0, first);
    for (const auto& parameter : m.named_parameters()) EXPECT_TRUE(parameter.value().grad().defined());
    const torch::NoGradGuard guard;
    m.norm.gain.sub_(m.norm.gain.grad(), 0.1);
  }
}

TEST(SideMemory, RowsOfZeroUnderAScaleOfZeroAreRefusedInTraining) {
  const Side side = make_side(at::kFloat, /*deviation=*/0);
  const Tensor x = torch::randn({2, kChannels, 3, 3});
  try {
    side.memory->forward(x);
    ADD_FAILURE() << "was accepted";
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what_without_backtrace(),
                testing::HasSubstr("SideMemory: rows must not all be 0 while the norm's scale is 0"));
  }
  EXPECT_NO_THROW(side.memory->forward(x.narrow(0, 0, 0)));
  side.memory->eval();
  EXPECT_TRUE(torch::equal(side.memory->forward(x), x));
}

TEST(SideMemory, OutsideTheMaskTheInputPassesAndNothingElseChanges) {
  const Side padded = make_side(at::kDouble), alone = make_side(at::kDouble);
  for (const Side& side : {padded, alone}) {
    const torch::NoGradGuard guard;
    side.memory->norm.gain.fill_(1.5);
  }
  const Tensor x = torch::randn({2, kChannels, 3, 4}, at::kDouble);
  const Tensor wide = at::cat({x, 50 * torch::randn({2, kChannels, 2, 4}, at::kDouble)}, 2);
  const Tensor mask = at::zeros({2, 5, 4}, at::kBool);
  mask.narrow(1, 0, 3).fill_(true);
  const Tensor y = padded.memory->forward(wide, {.token_mask = mask, .generator = {}});
  EXPECT_TRUE(torch::allclose(y.narrow(2, 0, 3), alone.memory->forward(x), 1e-12, 1e-13));
  EXPECT_TRUE(torch::equal(y.narrow(2, 3, 2), wide.narrow(2, 3, 2)));
  EXPECT_TRUE(torch::allclose(padded.memory->norm.running_mean, alone.memory->norm.running_mean, 1e-12, 1e-13));
}

TEST(SideMemory, KeepsTypeAndLayoutUnderAutocast) {
  const Side side = make_side();
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensor x = torch::randn({2, kChannels, 3, 4}).to(type).contiguous(at::MemoryFormat::ChannelsLast);
    const Tensor y = side.memory->forward(x);
    EXPECT_EQ(y.scalar_type(), type);
    EXPECT_EQ(y.strides(), x.strides());
  }
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
}

TEST(SideMemory, ANetworkWithItIsSavedWithItsRows) {
  const TemporaryFolder folder;
  const std::string path = (folder.path() / "network.pt").string();
  const auto network = [](const Side& side) {
    return torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, kChannels, 1)), side.memory);
  };
  const Side one = make_side(at::kFloat, 1), two = make_side(at::kFloat, 0.5);
  torch::nn::Sequential saved = network(one), loaded = network(two);
  {
    const torch::NoGradGuard guard;
    one.memory->norm.gain.fill_(2);
  }
  torch::save(saved, path);
  torch::load(loaded, path);
  const Tensor x = torch::randn({2, 3, 4, 4});
  EXPECT_TRUE(torch::equal(saved->forward(x), loaded->forward(x)));
}

TEST(SideMemory, AnOutputMapOfTheMemoryIsRefused) {
  expect_error(ExitCode::usage, "SideMemory: output must be none (the layer has W_o of its own), got another",
               [] { make_side(at::kFloat, 1, [](auto& o) { o.output = OutputMap::projection; }); });
}

}  // namespace
}  // namespace loci::side_memory_test
