#include "loci/models/video_resnet.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include <functional>

#include "loci/base/check.h"
#include "tests/module_state.h"
#include "tests/op_harness.h"

namespace loci::video_resnet_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using torch::Tensor;

VideoResnetOptions video(int64_t depth, Inflation inflation = Inflation::none, int64_t blocks = 0) {
  VideoResnetOptions options;
  options.depth = depth;
  options.inflation = inflation;
  options.has_non_local = blocks > 0;
  options.non_local.blocks = paper_blocks(blocks);
  return options;
}

struct Published {
  VideoResnetOptions options;
  int64_t parameters;
  double giga, ratio;  // multiply-adds; of them to C2D of the same depth
};

// The counts of the specification for 400 classes and 32 x 224 x 224; the ratios are those of the paper's table 2.
TEST(VideoResnet, CountsParametersAndMultiplyAddsOfThePaper) {
  constexpr MapExtents clip = {32, 224, 224};
  const std::vector<Published> table = {{video(50), 24327632, 20.44, 1},
                                        {video(50, Inflation::none, 1), 26429392, 21.62, 1.06},
                                        {video(50, Inflation::none, 5), 31686096, 28.57, 1.40},
                                        {video(50, Inflation::none, 10), 39044560, 36.69, 1.79},
                                        {video(50, Inflation::first_convolution), 28043472, 33.13, 1.62},
                                        {video(50, Inflation::second_convolution), 33433808, 39.09, 1.91},
                                        {video(101), 43319760, 35.29, 1},
                                        {video(101, Inflation::second_convolution), 63042768, 62.26, 1.76},
                                        {video(101, Inflation::first_convolution), 51754192, 51.68, 1.46},
                                        {video(101, Inflation::none, 5), 50678224, 43.41, 1.23}};
  for (const auto& [options, parameters, giga, ratio] : table) {
    SCOPED_TRACE(::testing::Message() << "depth " << options.depth << " of " << giga << " G");
    EXPECT_EQ(count_video_resnet_parameters(options), parameters);
    const auto count = static_cast<double>(video_resnet_multiply_adds(options, clip));
    EXPECT_NEAR(count * 1e-9, giga, 0.005);
    EXPECT_NEAR(count / static_cast<double>(video_resnet_multiply_adds(video(options.depth), clip)), ratio, 0.01);
  }
  VideoResnetOptions first = video(101);
  first.stride_in_first = true;
  EXPECT_LT(video_resnet_multiply_adds(first, clip), 34.5e9);
}

TEST(VideoResnet, PlacesBlocks) {
  const auto after = [](VideoResnetOptions options, std::vector<int64_t> counts) {
    options.has_non_local = true;
    options.non_local.blocks = std::move(counts);
    std::vector<std::vector<int64_t>> all;
    for (int64_t stage = 0; stage < 4; ++stage) all.push_back(options.blocks_after(stage));
    return all;
  };
  using Lists = std::vector<std::vector<int64_t>>;
  EXPECT_EQ(after(video(50), paper_blocks(1)), Lists({{}, {}, {4}, {}}));
  EXPECT_EQ(after(video(50), paper_blocks(5)), Lists({{}, {1, 3}, {1, 3, 5}, {}}));
  EXPECT_EQ(after(video(50), paper_blocks(10)), Lists({{}, {0, 1, 2, 3}, {0, 1, 2, 3, 4, 5}, {}}));
  EXPECT_EQ(after(video(101), paper_blocks(5)), Lists({{}, {1, 3}, {6, 13, 20}, {}}));
  EXPECT_EQ(after(video(101), {1, 0, 1, 1}), Lists({{1}, {}, {21}, {1}}));
  VideoResnetOptions own = video(50);
  own.non_local.after = {"res4.2", "res2.0", "res4.0"};
  EXPECT_EQ(after(own, {0, 0, 0, 0}), Lists({{0}, {}, {0, 2}, {}}));
}

VideoResnetOptions narrow_video(const std::function<void(VideoResnetOptions&)>& change = {}) {
  VideoResnetOptions options;
  options.width = 2;
  options.classes = 3;
  options.time_halvings = 1;
  options.dropout = 0;
  if (change) change(options);
  return options;
}

int64_t parameters_of(const torch::nn::Module& module) {
  int64_t total = 0;
  for (const Tensor& parameter : module.parameters()) total += parameter.numel();
  return total;
}

TEST(VideoResnet, HasTheParametersThatAreCounted) {
  for (const Inflation inflation : {Inflation::none, Inflation::first_convolution, Inflation::second_convolution}) {
    const auto options = narrow_video([&](auto& o) {
      o.inflation = inflation;
      o.has_non_local = true;
      o.non_local.blocks = paper_blocks(5);
    });
    EXPECT_EQ(parameters_of(VideoResnet(options, 1)), count_video_resnet_parameters(options));
  }
}

// Small networks of the same form: what is counted is what there is.
TEST(VideoResnet, HasOtherDepthsAndFirstKernels) {
  const torch::NoGradGuard guard;
  const auto options = narrow_video([](auto& o) {
    o.bottleneck_counts = {1, 2, 1, 3};
    o.first_kernel = 3;
    o.time_halvings = 0;
    o.inflation = Inflation::second_convolution;
    o.has_non_local = true;
    o.non_local.blocks = {0, 2, 1, 0};
  });
  VideoResnet network(options, 1);
  EXPECT_EQ(parameters_of(network), count_video_resnet_parameters(options));
  std::vector<std::string> names;
  for (const auto& [name, block] : network.non_local()) names.push_back(name);
  EXPECT_THAT(names, ElementsAre("res3_0", "res3_1", "res4_0"));
  network.eval();
  EXPECT_EQ(network.features(torch::randn({1, 3, 5, 64, 32})).sizes(), (std::vector<int64_t>{1, 64, 5, 2, 1}));
}

// The mean over frames of what is made of each alone does not know their order, whatever blocks relate. Kernels over
// frames do.
TEST(VideoResnet, WithoutKernelsOrPoolsOverTimeTheOrderOfFramesDoesNotMatter) {
  const torch::NoGradGuard guard;
  torch::manual_seed(4);
  const Tensor clips = torch::randn({2, 3, 8, 32, 32}, torch::kDouble), turned = clips.flip(2);
  const auto differs = [&](Inflation inflation, int64_t halvings, bool blocks) {
    VideoResnet network(narrow_video([&](auto& o) {
                          o.inflation = inflation;
                          o.time_halvings = halvings;
                          o.has_non_local = blocks;
                          o.non_local.blocks = {0, 1, 1, 0};
                          o.bottleneck_counts = {1, 1, 1, 1};
                        }),
                        1);
    network.to(torch::kDouble);
    // Blocks start as the identity, and inflated kernels are the same forward and backward.
    for (const Tensor& parameter : network.parameters()) parameter.add_(torch::randn_like(parameter), 0.1);
    network.forward(clips);  // moves the statistics
    network.eval();
    return (network.forward(clips) - network.forward(turned)).abs().max().item<double>() > 1e-9;
  };
  EXPECT_FALSE(differs(Inflation::none, 0, false));
  EXPECT_FALSE(differs(Inflation::none, 0, true));
  EXPECT_TRUE(differs(Inflation::second_convolution, 0, false));
  EXPECT_TRUE(differs(Inflation::first_convolution, 0, true));
}

TEST(VideoResnet, HalvesTimeAndSpaceAsThePaperSays) {
  const torch::NoGradGuard guard;
  VideoResnet eight(narrow_video(), 1);
  eight.eval();
  EXPECT_EQ(eight.features(torch::randn({1, 3, 8, 64, 64})).sizes(), (std::vector<int64_t>{1, 64, 4, 2, 2}));
  VideoResnet many(narrow_video([](auto& o) { o.time_halvings = 3; }), 1);
  many.eval();
  EXPECT_EQ(many.features(torch::randn({1, 3, 32, 64, 64})).sizes(), (std::vector<int64_t>{1, 64, 4, 2, 2}));
  EXPECT_EQ(many.forward(torch::randn({2, 3, 32, 32, 32})).sizes(), (std::vector<int64_t>{2, 3}));
}

// The weights of a trained network without blocks, and the same output bit for bit.
TEST(VideoResnet, GoesOnFromAPlainNetworkWithBlocks) {
  const torch::NoGradGuard guard;
  torch::manual_seed(0);
  VideoResnet plain(narrow_video(), 1);
  for (int step = 0; step < 2; ++step) plain.forward(torch::randn({2, 3, 8, 32, 32}));  // moves the statistics
  VideoResnet deep(narrow_video([](auto& o) {
                     o.has_non_local = true;
                     o.non_local.blocks = {1, 2, 3, 1};
                   }),
                   2);
  EXPECT_THAT(deep.non_local()[0].first, "res2_1");
  deep.load(state_of(plain));
  plain.eval();
  deep.eval();
  const Tensor clips = torch::randn({2, 3, 8, 64, 64});
  EXPECT_TRUE(harness::same_bits(deep.forward(clips), plain.forward(clips)));
  auto state = state_of(plain);
  state.erase("layer2.0.conv1.weight");
  EXPECT_THAT(harness::message_of([&] { deep.load(state); }), HasSubstr("layer2.0.conv1.weight"));
}

// A still clip seen without zeros at its ends: the inflated network has the answer of the image network. The middle
// frame of a clip that is longer than all kernels together reach sees no end.
TEST(VideoResnet, InflatesImageWeightsSoThatAStillClipIsAnImage) {
  const torch::NoGradGuard guard;
  torch::manual_seed(1);
  const Tensor image = torch::randn({4, 5, 3, 3}, torch::kDouble), frame = torch::randn({1, 5, 6, 6}, torch::kDouble);
  const Tensor still = frame.unsqueeze(2).expand({1, 5, 7, 6, 6});
  for (const int64_t t : {1, 3, 5}) {
    const Tensor y = torch::conv3d(still, inflated(image, t), {}, 1, at::IntArrayRef{0, 1, 1});
    const Tensor expected = torch::conv2d(frame, image, {}, 1, 1);
    for (int64_t s = 0; s < y.size(2); ++s) EXPECT_TRUE(torch::allclose(y.select(2, s), expected));
  }
  VideoResnet network(narrow_video([](auto& o) { o.inflation = Inflation::second_convolution; }), 1);
  auto state = state_of(network);
  for (auto& [name, weight] : state) {
    if (weight.dim() == 5) weight = weight.sum(2);  // the image network that it was inflated from
  }
  VideoResnet again(network.options(), 2);
  again.load(state);
  for (const auto& [name, weight] : state_of(network)) {
    EXPECT_TRUE(torch::allclose(state_of(again).at(name), weight, 1e-5, 1e-7)) << name;
  }
}

// The network written out from its tensors, in evaluation.
Tensor written_out(const std::map<std::string, Tensor>& state, const Tensor& clips, const VideoResnetOptions& options) {
  const auto convolve = [&](const std::string& name, const Tensor& x, std::vector<int64_t> stride) {
    const Tensor& w = state.at(name + ".weight");
    return torch::conv3d(x, w, {}, stride, at::IntArrayRef{w.size(2) / 2, w.size(3) / 2, w.size(4) / 2});
  };
  const auto norm = [&](const std::string& name, const Tensor& x) {
    return torch::batch_norm(x, state.at(name + ".weight"), state.at(name + ".bias"), state.at(name + ".running_mean"),
                             state.at(name + ".running_var"), false, 0.1, 1e-5, false);
  };
  Tensor x = torch::relu(norm("bn1", convolve("conv1", clips, {1, 2, 2})));
  x = torch::max_pool3d(x, {1, 3, 3}, {1, 2, 2}, {0, 1, 1});
  const auto counts = options.bottlenecks();
  for (int64_t stage = 0; stage < 4; ++stage) {
    for (int64_t b = 0; b < counts[static_cast<size_t>(stage)]; ++b) {
      const std::string name = "layer" + std::to_string(stage + 1) + "." + std::to_string(b) + ".";
      const int64_t step = stage > 0 && b == 0 ? 2 : 1;
      Tensor y = torch::relu(norm(name + "bn1", convolve(name + "conv1", x, {1, 1, 1})));
      y = torch::relu(norm(name + "bn2", convolve(name + "conv2", y, {1, step, step})));
      y = norm(name + "bn3", convolve(name + "conv3", y, {1, 1, 1}));
      const Tensor shortcut =
          b == 0 ? norm(name + "downsample.1", convolve(name + "downsample.0", x, {1, step, step})) : x;
      x = torch::relu(y + shortcut);
    }
    if (stage == 0) x = torch::max_pool3d(x, {2, 1, 1}, {2, 1, 1});
  }
  return torch::linear(x.mean(at::IntArrayRef{2, 3, 4}), state.at("fc.weight"), state.at("fc.bias"));
}

TEST(VideoResnet, IsTheNetworkWrittenOut) {
  const torch::NoGradGuard guard;
  torch::manual_seed(3);
  for (const Inflation inflation : {Inflation::none, Inflation::first_convolution, Inflation::second_convolution}) {
    VideoResnet network(narrow_video([&](auto& o) { o.inflation = inflation; }), 1);
    network.to(torch::kDouble);
    network.forward(torch::randn({2, 3, 8, 32, 32}, torch::kDouble));  // moves the statistics
    network.eval();
    const Tensor clips = torch::randn({2, 3, 8, 48, 40}, torch::kDouble);
    const Tensor expected = written_out(state_of(network), clips, network.options());
    EXPECT_TRUE(torch::allclose(network.forward(clips), expected, 1e-9, 1e-9)) << static_cast<int>(inflation);
  }
}

TEST(VideoResnet, DropsFeaturesInTrainingByTheGivenGenerator) {
  const torch::NoGradGuard guard;
  VideoResnet network(narrow_video([](auto& o) { o.dropout = 0.5; }), 1);
  const Tensor clips = torch::randn({2, 3, 8, 32, 32});
  const auto answer = [&](uint64_t seed) {
    return network.forward(clips, at::make_generator<at::CPUGeneratorImpl>(seed));
  };
  EXPECT_TRUE(torch::equal(answer(1), answer(1)));
  EXPECT_FALSE(torch::equal(answer(1), answer(2)));
  network.eval();
  EXPECT_TRUE(torch::equal(answer(1), answer(2)));
}

TEST(VideoResnet, TrainsEveryParameterWithBlocks) {
  torch::manual_seed(2);
  VideoResnet network(narrow_video([](auto& o) {
                        o.has_non_local = true;
                        o.inflation = Inflation::first_convolution;
                      }),
                      1);
  const Tensor clips = torch::randn({2, 3, 8, 64, 64}), labels = torch::tensor({0, 2});
  torch::optim::SGD optimizer(network.parameters(), 0.1);
  for (int step = 0; step < 2; ++step) {  // the scale of a new block is 0 in the first
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(network.forward(clips), labels).backward();
    if (step == 0) optimizer.step();
  }
  for (const auto& parameter : network.named_parameters()) {
    EXPECT_TRUE(parameter->grad().defined() && parameter->grad().any().item<bool>()) << parameter.key();
  }
}

std::string refusal_of(const std::function<void(VideoResnetOptions&)>& change) {
  try {
    narrow_video(change).check();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "";
}

TEST(VideoResnet, RefusesWhatDoesNotFit) {
  EXPECT_THAT(refusal_of([](auto& o) { o.depth = 18; }), HasSubstr("VideoResnet: depth must be 50 or 101, got 18"));
  EXPECT_THAT(refusal_of([](auto& o) { o.time_halvings = 2; }), HasSubstr("time_halvings must be 0, 1 or 3, got 2"));
  EXPECT_THAT(refusal_of([](auto& o) { o.bottleneck_counts = {1, 2, 1}; }),
              HasSubstr("bottlenecks must be 4 numbers of at least 1, got [1, 2, 1]"));
  EXPECT_THAT(refusal_of([](auto& o) { o.bottleneck_counts = {1, 2, 0, 1}; }), HasSubstr("got [1, 2, 0, 1]"));
  EXPECT_THAT(refusal_of([](auto& o) { o.first_kernel = 4; }), HasSubstr("first_kernel must be odd, got 4"));
  const auto refusal_of_blocks = [](const std::function<void(VideoNonLocalOptions&)>& change) {
    return refusal_of([&](auto& o) {
      o.has_non_local = true;
      change(o.non_local);
    });
  };
  EXPECT_THAT(refusal_of_blocks([](auto& o) { o.blocks = {0, 0, 7, 0}; }),
              HasSubstr("non_local.blocks must be 4 counts of at most 3, 4, 6, 3, got [0, 0, 7, 0]"));
  EXPECT_THAT(refusal_of_blocks([](auto& o) { o.after = {"res4.6"}; }),
              HasSubstr("non_local.after must be bottlenecks from res2.0 to res5.2, got res4.6"));
  EXPECT_THAT(refusal_of_blocks([](auto& o) { o.after = {"res4.1x"}; }), HasSubstr("got res4.1x"));
  EXPECT_THAT(refusal_of_blocks([](auto& o) { o.after = {"res4.1", "res4.1"}; }), HasSubstr("once"));
  EXPECT_THAT(refusal_of([](auto& o) { o.dropout = 1; }), HasSubstr("dropout must be at least 0 and below 1, got 1"));
  EXPECT_THAT(harness::message_of([] { paper_blocks(3); }), HasSubstr("must be 0, 1, 5 or 10, got 3"));
  VideoResnet network(narrow_video(), 1);
  EXPECT_THAT(harness::message_of([&] { network.forward(torch::zeros({1, 3, 32, 32})); }),
              HasSubstr("VideoResnet: clips must be [B, 3, frames, height, width], got [1, 3, 32, 32]"));
  EXPECT_THAT(harness::message_of([] { inflated(torch::zeros({2, 2, 3, 3, 3}), 3); }),
              HasSubstr("inflated: weight must be [C, C', height, width]"));
}

}  // namespace
}  // namespace loci::video_resnet_test
