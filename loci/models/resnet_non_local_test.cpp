// Non-local blocks in the residual network for small images.
#include <gmock/gmock.h>
#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/models/resnet.h"
#include "tests/module_state.h"
#include "tests/op_harness.h"

namespace loci::resnet_non_local_test {
namespace {

using ::testing::HasSubstr;
using torch::Tensor;

ResnetOptions relating_resnet(std::vector<int64_t> blocks) {
  ResnetOptions options;
  options.depth = 14;  // two blocks a stage
  options.width = 4;
  options.classes = 3;
  options.has_non_local = true;
  options.non_local.blocks = std::move(blocks);
  return options;
}

TEST(ResnetNonLocal, StandsBeforeTheLastBlockOrAfterAll) {
  const Resnet model(relating_resnet({0, 2, 1}), 0);
  std::vector<std::string> names;
  for (const auto& [name, block] : model.non_local()) names.push_back(name);
  EXPECT_THAT(names, ::testing::ElementsAre("layer2.0", "layer2.1", "layer3.0"));
  EXPECT_TRUE(state_of(model).contains("layer3.0.non_local.theta_weight"));
  EXPECT_FALSE(torch::equal(model.non_local()[0].second->theta_weight, model.non_local()[1].second->theta_weight));
  EXPECT_EQ(ResnetOptions().non_local_after(2), std::vector<int64_t>());
}

TEST(ResnetNonLocal, CountsItsParametersAndMultiplyAdds) {
  const auto options = relating_resnet({1, 0, 2});
  int64_t numbers = 0;
  for (const auto& parameter : Resnet(options, 0).parameters()) numbers += parameter.numel();
  EXPECT_EQ(count_resnet_parameters(options).first, numbers);
  ResnetOptions plain = options;
  plain.has_non_local = false;
  // Maps of 8 x 8 with 4 channels and 2 x 2 with 16; keys are pooled to a quarter.
  const int64_t first = 64 * 8 * 2 + 16 * 8 * 2 + 64 * 16 * 4, third = 4 * 128 * 2 + 1 * 128 * 2 + 4 * 1 * 16;
  EXPECT_EQ(resnet_multiply_adds(options, 8, 8) - resnet_multiply_adds(plain, 8, 8), first + 2 * third);
  EXPECT_GT(resnet_kept_numbers(options, 8, 8), resnet_kept_numbers(plain, 8, 8));
}

TEST(ResnetNonLocal, InsertedIntoATrainedNetworkItChangesNoBitAndLearns) {
  torch::manual_seed(0);
  ResnetOptions without = relating_resnet({0, 0, 0});
  without.has_non_local = false;
  Resnet plain(without, 1), with(relating_resnet({0, 1, 1}), 2);
  const Tensor images = torch::randn({8, 3, 16, 16}), labels = torch::randint(0, 3, {8}, torch::kLong);
  plain.forward(images);  // moves the statistics
  with.load(state_of(plain));
  for (const bool training : {false, true}) {
    plain.train(training);
    with.train(training);
    const torch::NoGradGuard guard;
    EXPECT_TRUE(harness::same_bits(with.forward(images), plain.forward(images)));
  }
  torch::optim::SGD optimizer(with.parameters(), 0.05);
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    optimizer.zero_grad();
    const Tensor loss = at::cross_entropy_loss(with.forward(images), labels);
    loss.backward();
    optimizer.step();
    (step == 0 ? first : last) = loss.item<double>();
  }
  EXPECT_LT(last, 0.5 * first);
  for (const auto& [name, block] : with.non_local()) {
    EXPECT_TRUE(block->norm.gain.any().item<bool>()) << name;
    EXPECT_TRUE(block->theta_weight.grad().any().item<bool>()) << name;
  }
}

TEST(ResnetNonLocal, RefusesCountsThatDoNotFit) {
  const auto message = [](std::vector<int64_t> blocks, const std::function<void(ResnetOptions&)>& change = {}) {
    ResnetOptions options = relating_resnet(std::move(blocks));
    if (change) change(options);
    return harness::message_of([&] { check_resnet_options(options); });
  };
  EXPECT_THAT(message({1, 1}), HasSubstr("non_local.blocks must be 3 numbers, got 2"));
  EXPECT_THAT(message({0, 0, 3}), HasSubstr("non_local.blocks of stage 3 must be within 0 .. 2, got 3"));
  EXPECT_THAT(message({0, 0, 1}, [](auto& o) { o.non_local.domain = PairDomain::space; }),
              HasSubstr("need maps with frames (dimensions 3), got 2"));
}

}  // namespace
}  // namespace loci::resnet_non_local_test
