#include "loci/models/resnet.h"

#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/optim/optimizer_set.h"
#include "tests/module_state.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using torch::Tensor;

// Two blocks a stage, 4 to 16 channels.
ResnetOptions small_resnet() {
  ResnetOptions options;
  options.depth = 14;
  options.width = 4;
  options.classes = 3;
  return options;
}

ResnetOptions small_resnet_with(ResnetPlacement placement) {
  ResnetOptions options = small_resnet();
  options.has_memory = true;
  options.memory.placement = placement;
  options.memory.rows = 100;
  options.memory.heads = 2;
  options.memory.top_k = 4;
  options.memory.key_width = 8;
  return options;
}

ResnetOptions resnet_20() {
  ResnetOptions options;
  options.classes = 10;
  return options;
}

struct TrainedResnet {
  explicit TrainedResnet(const ResnetOptions& options) : model(std::make_shared<Resnet>(options, 1)) {
    DenseOptimizerOptions dense;
    dense.kind = DenseRule::sgd;
    dense.learning_rate = 0.05;
    std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables;
    if (model->memory()) tables.push_back({model->memory()->table(), {}});
    optimizers = std::make_unique<OptimizerSet>(model->dense_parameters(), dense, tables, 1);
    torch::manual_seed(0);
    images = torch::randn({8, 3, 12, 12});
    labels = torch::randint(0, 3, {8}, torch::kLong);
  }
  double train(int64_t steps) {
    double last = 0;
    for (int64_t i = 0; i < steps; ++i) {
      const Tensor loss = at::cross_entropy_loss(model->forward(images), labels);
      loss.backward();
      optimizers->step(step++, 1000);
      last = loss.item<double>();
    }
    return last;
  }

  std::shared_ptr<Resnet> model;
  std::unique_ptr<OptimizerSet> optimizers;
  Tensor images, labels;
  int64_t step = 0;
};

TEST(Resnet, HasTheParametersAndMultiplyAddsOfThePaper) {
  ResnetOptions options = resnet_20();
  EXPECT_EQ(count_resnet_parameters(options).first, 269'722);
  EXPECT_EQ(resnet_multiply_adds(options, 32, 32), 40'551'040);
  int64_t numbers = 0;
  for (const auto& parameter : Resnet(options, 0).parameters()) numbers += parameter.numel();
  EXPECT_EQ(numbers, 269'722);
  options.depth = 32;
  EXPECT_EQ(count_resnet_parameters(options).first, 464'154);
  options.depth = 56;
  EXPECT_EQ(count_resnet_parameters(options).first, 853'018);
}

TEST(Resnet, CountsMultiplyAddsOfOddImages) {
  ResnetOptions options = small_resnet();  // maps of 7 x 5, 4 x 3, 2 x 2
  const int64_t stem = 35 * 9 * 3 * 4, first = 35 * 4 * 9 * 16, second = 12 * (9 * 32 + 3 * 9 * 64),
                third = 4 * (9 * 128 + 3 * 9 * 256);
  EXPECT_EQ(resnet_multiply_adds(options, 7, 5), stem + first + second + third + 16 * 3);
  EXPECT_EQ(Resnet(options, 0).forward(torch::randn({2, 3, 7, 5})).sizes(), (std::vector<int64_t>{2, 3}));
}

TEST(Resnet, ArmsOfEqualCostCostTheSame) {
  const int64_t plain = resnet_multiply_adds(resnet_20(), 32, 32);
  ResnetOptions options = resnet_20();
  options.extra_blocks = {0, 0, 1};
  EXPECT_EQ(resnet_multiply_adds(options, 32, 32) - plain, 64 * 73'728);
  options = resnet_20();
  options.has_memory = true;
  EXPECT_EQ(resnet_multiply_adds(options, 32, 32) - plain, 64 * (36'864 + 4'096));
  options.memory.placement = ResnetPlacement::replace3x3;
  EXPECT_EQ(resnet_multiply_adds(options, 32, 32), plain);
  options.memory.placement = ResnetPlacement::replace_block;
  options.memory.rows = 192 * 192;
  EXPECT_EQ(resnet_multiply_adds(options, 32, 32), plain);
}

TEST(Resnet, CountsTheParametersThatItHas) {
  for (const auto placement : {ResnetPlacement::side, ResnetPlacement::replace3x3, ResnetPlacement::replace_block}) {
    for (const QueryNorm norm :
         {QueryNorm::none, QueryNorm::layer, QueryNorm::rms, QueryNorm::batch, QueryNorm::center}) {
      ResnetOptions options = small_resnet_with(placement);
      options.extra_blocks = {1, 0, 2};
      options.memory.stage = 2;
      options.memory.query_norm = norm;
      for (const bool wide : {false, true}) {
        if (wide) {
          options.memory.query_kernels = {3, 1};
          options.memory.query_hidden = {5};
        }
        const Resnet model(options, 0);
        int64_t dense = 0;
        for (const auto& parameter : model.parameters()) dense += parameter.numel();
        EXPECT_EQ(count_resnet_parameters(options), std::pair(dense, int64_t{100} * 8)) << word_of(norm);
        EXPECT_EQ(model.memory()->table()->rows() * model.memory()->table()->width(), 800);
      }
    }
  }
}

TEST(Resnet, HasTheNamesOfTheZoo) {
  const auto state = copied_state(Resnet(small_resnet(), 0));
  for (const char* name : {"conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var",
                           "layer1.0.conv1.weight", "layer3.1.bn2.running_var", "linear.weight", "linear.bias"}) {
    EXPECT_TRUE(state.contains(name)) << name;
  }
  EXPECT_EQ(state.size(), 5u + 6 * 10 + 2);
  EXPECT_EQ(state.at("layer2.0.conv1.weight").sizes(), (std::vector<int64_t>{8, 4, 3, 3}));
  EXPECT_TRUE(
      copied_state(Resnet(small_resnet_with(ResnetPlacement::side), 0)).contains("layer3.1.memory.map.memory.keys1"));
  EXPECT_TRUE(
      copied_state(Resnet(small_resnet_with(ResnetPlacement::replace3x3), 0)).contains("layer3.1.memory.memory.keys1"));
}

// With the second norms at zero a block is its shortcut, which is positive behind the first relu.
TEST(Resnet, ShortcutsTakeEverySecondPositionBetweenZeroChannels) {
  Resnet model(small_resnet(), 0);
  model.eval();
  const torch::NoGradGuard guard;
  for (const auto& parameter : model.named_parameters()) {
    if (parameter.key().ends_with("bn2.weight")) parameter.value().zero_();
  }
  const Tensor images = torch::randn({2, 3, 8, 8});
  const auto state = copied_state(model);
  const Tensor stem = torch::relu(torch::conv2d(images, state.at("conv1.weight"), {}, 1, 1) / std::sqrt(1 + 1e-5));
  const Tensor kept = stem.slice(2, 0, 8, 4).slice(3, 0, 8, 4).mean({2, 3});  // [2, 4]
  Tensor features = torch::zeros({2, 16});
  features.slice(1, 6, 10).copy_(kept);  // 2 zeros before and after, then 4
  const Tensor logits = torch::linear(features, state.at("linear.weight"), state.at("linear.bias"));
  EXPECT_TRUE(torch::allclose(model.forward(images), logits, 1e-5, 1e-6));
}

TEST(Resnet, LearnsWithEveryPlacement) {
  for (const auto placement : {ResnetPlacement::side, ResnetPlacement::replace3x3, ResnetPlacement::replace_block}) {
    TrainedResnet run(small_resnet_with(placement));
    const auto before = copied_state(*run.model);
    const Tensor rows = run.model->memory()->table()->store().values().clone();
    EXPECT_LT(run.train(30), 0.5) << static_cast<int>(placement);
    for (const auto& [name, value] : copied_state(*run.model)) {
      if (name.ends_with("query_net.bias_0")) continue;  // the norm takes it away
      EXPECT_FALSE(torch::equal(value, before.at(name))) << name;
    }
    EXPECT_FALSE(torch::equal(run.model->memory()->table()->store().values(), rows));
  }
}

TEST(Resnet, FrozenKeysStayWhileTheirQueriesMove) {
  ResnetOptions options = small_resnet_with(ResnetPlacement::side);
  options.memory.frozen_keys = true;
  TrainedResnet run(options);
  const auto before = copied_state(*run.model);
  run.train(20);
  const auto after = copied_state(*run.model);
  for (const char* keys : {"keys1", "keys2"}) {
    const std::string name = std::string("layer3.1.memory.map.memory.") + keys;
    EXPECT_TRUE(torch::equal(after.at(name), before.at(name))) << name;
  }
  const std::string gain = "layer3.1.memory.map.memory.norm_gain";
  EXPECT_FALSE(torch::equal(after.at(gain), before.at(gain)));
}

TEST(Resnet, WeightsDecayAndNormsAndKeysDoNot) {
  Resnet model(small_resnet_with(ResnetPlacement::side), 0);
  std::map<std::string, bool> decay;
  for (const NamedParameter& parameter : model.dense_parameters()) decay[parameter.name] = parameter.decay;
  for (const char* name : {"conv1.weight", "linear.weight", "layer3.1.memory.output_weight"}) {
    EXPECT_TRUE(decay.at(name)) << name;
  }
  for (const char* name : {"bn1.weight", "bn1.bias", "linear.bias", "layer3.1.memory.norm_gain",
                           "layer3.1.memory.map.memory.keys1", "layer3.1.memory.map.memory.norm_gain"}) {
    EXPECT_FALSE(decay.at(name)) << name;
  }
}

TEST(Resnet, AMemoryInsertedAtTheSideOfATrainedNetworkChangesNoBit) {
  TrainedResnet trained(small_resnet());
  trained.train(5);
  Resnet with(small_resnet_with(ResnetPlacement::side), 7);
  auto state = copied_state(*trained.model);
  state["bn1.num_batches_tracked"] = torch::tensor(int64_t{5});
  with.load(state);
  trained.model->eval();
  with.eval();
  const torch::NoGradGuard guard;
  EXPECT_TRUE(torch::equal(with.forward(trained.images), trained.model->forward(trained.images)));
  trained.model->train();
  with.train();
  EXPECT_TRUE(torch::equal(with.forward(trained.images), trained.model->forward(trained.images)));
}

// A block between ReLUs whose second norm has the scale 0 returns what it gets.
TEST(Resnet, ABlockAddedToATrainedNetworkChangesNoBitAndLearns) {
  TrainedResnet trained(small_resnet());
  trained.train(5);
  TrainedResnet with([] {
    ResnetOptions options = small_resnet();
    options.extra_blocks = {1, 0, 2};
    return options;
  }());
  with.model->load(copied_state(*trained.model));
  trained.model->eval();
  with.model->eval();
  {
    const torch::NoGradGuard guard;
    EXPECT_TRUE(torch::equal(with.model->forward(trained.images), trained.model->forward(trained.images)));
  }
  with.model->train();
  const auto scale = with.model->named_parameters()["layer3.2.bn2.weight"];
  EXPECT_EQ(scale.abs().max().item<double>(), 0);
  with.train(1);
  EXPECT_GT(scale.abs().max().item<double>(), 0);
  const auto all = copied_state(*with.model);  // given whole, it is taken as it is
  Resnet again(with.model->options(), 7);
  again.load(all);
  EXPECT_TRUE(torch::equal(copied_state(again).at("layer3.2.bn2.weight"), scale));
}

TEST(Resnet, LoadRefusesWhatIsOfAnotherNetwork) {
  const auto refused = [](const std::string& message, const ResnetOptions& options, auto state) {
    expect_error(ExitCode::input, message, [&] { Resnet(options, 0).load(state); });
  };
  const auto plain = copied_state(Resnet(small_resnet(), 0));
  refused("every name must belong to the model, got layer3.1.conv2.weight",
          small_resnet_with(ResnetPlacement::replace3x3), plain);
  auto state = plain;
  state.erase("layer1.0.bn1.running_var");
  refused("layer1.0.bn1.running_var must be given", small_resnet_with(ResnetPlacement::side), state);
  state = plain;
  state["linear.bias"] = torch::zeros({4});
  refused("linear.bias must be [3], got [4]", small_resnet(), state);
  state = plain;
  state["linear.bias"] = torch::zeros({3}, torch::kLong);
  refused("linear.bias must be Float, got Long", small_resnet(), state);
  const ResnetOptions side = small_resnet_with(ResnetPlacement::side);
  state = copied_state(Resnet(side, 0));
  state.erase("layer3.1.memory.norm_gain");
  refused("Resnet: layer3.1.memory.norm_gain must be given, for layer3.1.memory.map", side, state);
}

// Of the maps that norms and memories receive: how many there were, how many of them were not channels last.
int64_t seen_maps = 0, other_maps = 0;

std::unique_ptr<at::ObserverContext> look_at_maps(const at::RecordFunction& function) {
  const std::string name = function.name();
  if (name != "aten::batch_norm") return nullptr;
  const Tensor& map = function.inputs()[0].toTensor();
  if (map.dim() == 4) {
    ++seen_maps;
    if (!map.is_contiguous(at::MemoryFormat::ChannelsLast)) ++other_maps;
  }
  return nullptr;
}

TEST(Resnet, MapsAreChannelsLastFromTheFirstConvolutionOn) {
  for (const int64_t channels : {1, 3}) {
    ResnetOptions options = small_resnet();
    options.channels = channels;
    Resnet model(options, 0);
    seen_maps = other_maps = 0;
    const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(look_at_maps).needsInputs(true));
    model.forward(torch::randn({2, channels, 9, 9}));
    at::removeCallback(handle);
    EXPECT_EQ(seen_maps, 13);
    EXPECT_EQ(other_maps, 0) << channels;
  }
}

TEST(Resnet, TheLayoutOfTheImagesMakesNoDifference) {
  for (const int64_t channels : {1, 3}) {
    ResnetOptions options = small_resnet_with(ResnetPlacement::side);
    options.channels = channels;
    Resnet model(options, 0);
    model.eval();
    const torch::NoGradGuard guard;
    const Tensor images = torch::randn({2, channels, 9, 9});
    EXPECT_TRUE(torch::equal(model.forward(images), model.forward(images.contiguous(at::MemoryFormat::ChannelsLast))));
    EXPECT_FALSE(torch::equal(model.forward(images), model.forward(images.flip(0))));
  }
}

TEST(Resnet, UnderAutocastLogitsAreFloatAndNear) {
  Resnet model(small_resnet_with(ResnetPlacement::side), 0);
  const torch::NoGradGuard guard;
  const Tensor images = torch::randn({8, 3, 12, 12});
  const Tensor exact = model.forward(images);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Tensor cast = model.forward(images);
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_EQ(cast.scalar_type(), at::kFloat);
  EXPECT_LT((cast - exact).norm().item<double>() / exact.norm().item<double>(), 0.05);
  EXPECT_FALSE(torch::equal(cast, exact));
}

TEST(Resnet, RefusesOptionsThatDoNotFit) {
  const auto refused = [](const std::string& message, const std::function<void(ResnetOptions&)>& change) {
    ResnetOptions options = small_resnet_with(ResnetPlacement::side);
    change(options);
    expect_error(ExitCode::usage, message, [&] { check_resnet_options(options); });
  };
  refused("depth must be 6 n + 2 (8, 14, 20, 32, 56 ...), got 18", [](auto& o) { o.depth = 18; });
  refused("extra_blocks must be 3 numbers, got 1", [](auto& o) { o.extra_blocks = {1}; });
  refused("memory.stage must be within 1 .. 3, got 0", [](auto& o) { o.memory.stage = 0; });
  refused("memory.block must be within -2 .. 1, got 2", [](auto& o) { o.memory.block = 2; });
  refused("memory.blocks must be within 1 .. 1 (a stage keeps its first), got 2", [](auto& o) {
    o.memory.placement = ResnetPlacement::replace_block;
    o.memory.blocks = 2;
  });
  refused("memory.top_k must be at most memory.rows = 100, got 101", [](auto& o) { o.memory.top_k = 101; });
  refused("memory.key_width must be even, got 7", [](auto& o) { o.memory.key_width = 7; });
  refused("memory.query_kernels must be odd, got 2", [](auto& o) { o.memory.query_kernels = {2}; });
  refused("memory.query_kernels must be one more than the 1 query_hidden, got 1",
          [](auto& o) { o.memory.query_hidden = {4}; });
  refused("memory.frozen_keys must be false with [model.memory.reinitialise], got true",
          [](auto& o) { o.memory.frozen_keys = o.memory.has_reinitialise = true; });
  ResnetOptions huge = small_resnet_with(ResnetPlacement::side);
  huge.memory.heads = huge.memory.key_width = 1 << 16;
  huge.memory.rows = int64_t{1} << 62;
  expect_error(ExitCode::usage, "model: its memory's size must fit 63 bits", [&] { count_resnet_parameters(huge); });
}

}  // namespace
}  // namespace loci
