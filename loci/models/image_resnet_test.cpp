#include "loci/models/image_resnet.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/nn/relation/non_local.h"
#include "tests/module_state.h"
#include "tests/temporary_folder.h"

namespace loci::image_resnet_test {
namespace {

using ::testing::HasSubstr;
using torch::Tensor;

ImageResnetOptions image_resnet(int64_t depth, int64_t width = 4, int64_t classes = 3) {
  ImageResnetOptions options;
  options.depth = depth;
  options.width = width;
  options.classes = classes;
  return options;
}

ImageResnetOptions relating(int64_t depth, std::vector<int64_t> blocks) {
  ImageResnetOptions options = image_resnet(depth);
  options.has_non_local = true;
  options.non_local.blocks = std::move(blocks);
  return options;
}

// The published counts of the four networks for 1000 classes, multiply-adds of 224 x 224.
TEST(ImageResnet, CountsAreThePublishedOnes) {
  struct Published {
    int64_t depth, parameters;
    double giga;
  };
  for (const auto& [depth, parameters, giga] : std::vector<Published>{
           {18, 11689512, 1.814}, {34, 21797672, 3.664}, {50, 25557032, 4.089}, {101, 44549160, 7.801}}) {
    const ImageResnetOptions options = image_resnet(depth, 64, 1000);
    EXPECT_EQ(count_image_resnet_parameters(options), parameters) << depth;
    EXPECT_NEAR(static_cast<double>(image_resnet_multiply_adds(options, 224, 224)) * 1e-9, giga, 0.0006) << depth;
  }
}

TEST(ImageResnet, CountsThoseOfTheNetwork) {
  ImageResnetOptions wide = relating(50, {0, 1, 2, 0});
  wide.extra_blocks = {1, 0, 2, 0};
  for (const ImageResnetOptions& options : {image_resnet(18), image_resnet(34, 6, 0), wide}) {
    int64_t numbers = 0;
    for (const auto& parameter : ImageResnet(options, 0).parameters()) numbers += parameter.numel();
    EXPECT_EQ(count_image_resnet_parameters(options), numbers);
    ImageResnetOptions plain = options;
    plain.has_non_local = false;
    if (options.has_non_local) {
      EXPECT_GT(image_resnet_multiply_adds(options, 64, 64), image_resnet_multiply_adds(plain, 64, 64));
      EXPECT_GT(image_resnet_kept_numbers(options, 64, 64), image_resnet_kept_numbers(plain, 64, 64));
    }
  }
}

TEST(ImageResnet, StagesHaveAQuarterToA32ndOfTheEdges) {
  for (const int64_t depth : {18, 50}) {
    ImageResnet model(image_resnet(depth), 0);
    const std::vector<Tensor> maps = model.stages(torch::randn({2, 3, 65, 96}));
    ASSERT_EQ(maps.size(), 4u);
    for (int64_t stage = 0; stage < 4; ++stage) {
      const MapExtents map = image_resnet_map(stage, 65, 96);
      const Tensor& got = maps[static_cast<size_t>(stage)];
      EXPECT_EQ(got.sizes().vec(), (std::vector<int64_t>{2, (depth == 18 ? 4 : 16) << stage, map[1], map[2]}));
      EXPECT_TRUE(got.is_contiguous(at::MemoryFormat::ChannelsLast));
    }
    EXPECT_EQ(model.forward(torch::randn({2, 3, 65, 96})).sizes().vec(), (std::vector<int64_t>{2, 3}));
  }
}

TEST(ImageResnet, ABlockStandsBeforeTheLastOfItsStage) {
  const auto names = [](const ImageResnet& model) {
    std::vector<std::string> result;
    for (const auto& [name, block] : model.non_local()) result.push_back(name);
    return result;
  };
  EXPECT_THAT(names(ImageResnet(relating(18, {0, 0, 1, 0}), 0)), ::testing::ElementsAre("layer3.0"));
  EXPECT_THAT(names(ImageResnet(relating(50, {0, 0, 1, 0}), 0)), ::testing::ElementsAre("layer3.4"));
}

// What is new returns its input at first; what is trained comes from the state.
TEST(ImageResnet, ATrainedNetworkGoesOnWithBlocksAndExtraBlocks) {
  ImageResnet trained(image_resnet(18), 1);
  trained.eval();
  ImageResnetOptions options = relating(18, {0, 1, 1, 0});
  options.extra_blocks = {0, 0, 1, 1};
  ImageResnet model(options, 2);
  auto state = copied_state(trained);
  state["bn1.num_batches_tracked"] = torch::ones({}, torch::kLong);
  model.load(state);
  model.eval();
  const Tensor x = torch::randn({2, 3, 64, 64});
  EXPECT_TRUE(torch::equal(model.forward(x), trained.forward(x)));

  // The scale of an extra block that is given stays.
  ImageResnet again(options, 3);
  {
    const torch::NoGradGuard guard;
    model.named_parameters()["layer3.2.bn2.weight"].fill_(0.5);
  }
  again.load(copied_state(model));
  EXPECT_EQ(again.named_parameters()["layer3.2.bn2.weight"][0].item<float>(), 0.5F);
}

TEST(ImageResnet, RefusesOtherStates) {
  ImageResnet model(image_resnet(18), 1);
  const auto refused = [&](const std::string& words, std::map<std::string, Tensor> state) {
    expect_error(ExitCode::input, words, [&] { model.load(state, "weights"); });
  };
  auto state = copied_state(model);
  state.erase("layer4.1.bn2.running_var");
  refused("weights: layer4.1.bn2.running_var must be given", state);
  state = copied_state(model);
  state["layer1.0.downsample.0.weight"] = torch::zeros({4, 4, 1, 1});
  refused("every name must belong to the model, got layer1.0.downsample.0.weight", state);
  state = copied_state(model);
  state["fc.weight"] = torch::zeros({4, 32});
  refused("fc.weight must be [3, 32], got [4, 32]", state);
}

TEST(ImageResnet, RefusesOptions) {
  const auto refused = [](const std::string& words, const std::function<void(ImageResnetOptions&)>& change) {
    ImageResnetOptions options = image_resnet(18);
    change(options);
    expect_error(ExitCode::usage, words, [&] { ImageResnet(options, 0); });
  };
  refused("depth must be 18, 34, 50 or 101, got 20", [](auto& o) { o.depth = 20; });
  refused("extra_blocks must be 4 numbers, got 3", [](auto& o) { o.extra_blocks = {0, 0, 0}; });
  refused("non_local.blocks of stage 3 must be within 0 .. 2, got 3", [](auto& o) {
    o.has_non_local = true;
    o.non_local.blocks = {0, 0, 3, 0};
  });
}

}  // namespace
}  // namespace loci::image_resnet_test
