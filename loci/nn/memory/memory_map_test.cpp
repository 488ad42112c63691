#include "loci/nn/memory/memory_map.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include <algorithm>
#include <functional>
#include <tuple>

#include "loci/base/check.h"
#include "loci/nn/memory/calibrate.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/usage.h"
#include "tests/allocations.h"
#include "tests/feature_maps.h"
#include "tests/op_harness.h"
#include "tests/row_gradient.h"
#include "tests/temporary_folder.h"

namespace loci::memory_map_test {
namespace {

using at::Tensor;

struct Trained {
  Tensor y, grad_x, row_gradient;
  std::vector<Tensor> gradients;
};

Trained trained(const BuiltMap& made, const Tensor& given) {
  const Tensor x = given.detach().requires_grad_();
  const Tensor y = made.map->forward(x);
  torch::manual_seed(8);
  const Tensor direction = torch::randn(y.sizes(), at::kFloat);
  y.backward(given.is_contiguous() ? direction : channels_last(direction));
  Trained result{y.detach(), x.grad(), dense_gradient(*made.table), {}};
  for (const auto& parameter : made.map->parameters()) result.gradients.push_back(parameter.grad());
  return result;
}

TEST(MemoryMap, ContiguousAndChannelsLastMapsGiveTheSameBitsEachInItsLayout) {
  for (const int64_t dimensions : {1, 2, 3}) {
    for (const OutputMap output : {OutputMap::none, OutputMap::projection}) {
      const auto change = [&](auto& o) { o.output = output; };
      const BuiltMap one = built_map(dimensions, change, at::kFloat), two = built_map(dimensions, change, at::kFloat);
      const Tensor x = torch::randn(map_sizes(dimensions));
      const Trained plain = trained(one, x), last = trained(two, channels_last(x));
      EXPECT_TRUE(plain.y.is_contiguous());
      EXPECT_TRUE(last.y.movedim(1, -1).is_contiguous());
      EXPECT_EQ(plain.y.sizes(), map_sizes(dimensions, output == OutputMap::none ? kMapRowWidth : kMapChannels));
      EXPECT_TRUE(harness::same_bits(plain.y, last.y.contiguous()));
      EXPECT_TRUE(harness::same_bits(plain.grad_x.contiguous(), last.grad_x.contiguous()));
      EXPECT_TRUE(harness::same_bits(plain.row_gradient, last.row_gradient));
      for (size_t i = 0; i < plain.gradients.size(); ++i) {
        EXPECT_TRUE(harness::same_bits(plain.gradients[i], last.gradients[i])) << i;
      }
    }
  }
}

TEST(MemoryMap, AChannelsLastMapIsReadAndWrittenWithoutACopyAndAContiguousOneWithOneEachWay) {
  const BuiltMap made = built_map(2, {}, at::kFloat);
  made.map->eval();
  const Tensor x = torch::randn({3, kMapChannels, 11, 13}), last = channels_last(x);
  const int64_t input = 3 * 11 * 13 * kMapChannels * 4, output = 3 * 11 * 13 * kMapRowWidth * 4;
  const torch::InferenceMode inference;
  const auto count = [](const std::vector<int64_t>& sizes, int64_t size) {
    return std::count(sizes.begin(), sizes.end(), size);
  };
  const auto of_last = allocations_of([&] { made.map->forward(last); });
  EXPECT_EQ(count(of_last, input), 0);
  EXPECT_EQ(count(of_last, output), 1);
  const auto of_contiguous = allocations_of([&] { made.map->forward(x); });
  EXPECT_EQ(count(of_contiguous, input), 1);
  EXPECT_EQ(count(of_contiguous, output), 2);
  EXPECT_EQ(of_contiguous.size(), of_last.size() + 2);
  EXPECT_EQ(made.map->tokens(last).const_data_ptr(), last.const_data_ptr());
}

// A map with a frame of other numbers around it is the map alone: outside the mask is padding.
TEST(MemoryMap, PositionsOutsideTheMaskArePadding) {
  for (const bool deep : {false, true}) {
    const auto change = [&](auto& o) {
      if (deep) o.query_kernels = {3, 3}, o.query_hidden = {4};
    };
    const BuiltMap alone = built_map(2, change), padded = built_map(2, change);
    const Tensor x = torch::randn({2, kMapChannels, 3, 4}, at::kDouble);
    const Tensor wide = torch::randn({2, kMapChannels, 5, 6}, at::kDouble) * 100;
    const Tensor mask = at::zeros({2, 5, 6}, at::kBool);
    const auto inside = [](const Tensor& t) { return t.narrow(-2, 1, 3).narrow(-1, 1, 4); };
    inside(wide).copy_(x);
    inside(mask).fill_(true);
    const Tensor y = padded.map->forward(wide, {.token_mask = mask, .generator = {}});
    EXPECT_TRUE(torch::allclose(inside(y), alone.map->forward(x), 1e-10, 1e-12));
    EXPECT_EQ(y.masked_fill(mask.unsqueeze(1), 0).abs().max().item<double>(), 0);
    for (size_t i = 0; i < alone.map->buffers().size(); ++i) {
      EXPECT_TRUE(torch::allclose(padded.map->buffers()[i], alone.map->buffers()[i], 1e-10, 1e-12)) << i;
    }
  }
}

TEST(MemoryMap, EmptyBatchesSinglePositionsAndLowPrecisionKeepShapeAndType) {
  for (const int64_t dimensions : {0, 1, 2, 3}) {
    for (const bool deep : {false, true}) {
      SCOPED_TRACE(c10::str(dimensions, " ", deep));
      const BuiltMap made = built_map(
          dimensions,
          [&](auto& o) {
            if (deep) o.query_kernels = {dimensions == 0 ? 1 : 3, 1}, o.query_hidden = {4};
          },
          at::kFloat);
      for (const int64_t batch : {0, 1, 2}) {
        std::vector<int64_t> sizes(static_cast<size_t>(dimensions + 2), 1), expected = sizes;
        sizes[0] = expected[0] = batch;
        sizes[1] = kMapChannels, expected[1] = kMapRowWidth;
        const Tensor x = torch::randn(sizes).requires_grad_();
        const Tensor y = made.map->forward(x);
        EXPECT_EQ(y.sizes(), expected);
        y.sum().backward();
        EXPECT_EQ(x.grad().sizes(), sizes);
        EXPECT_TRUE(made.map->forward(x).isfinite().all().item<bool>());
      }
      const Tensor x = torch::randn(map_sizes(dimensions));
      EXPECT_EQ(made.map->forward(x.to(at::kBFloat16)).scalar_type(), at::kBFloat16);
      const Tensor plain = made.map->forward(x);
      at::autocast::set_autocast_enabled(at::kCPU, true);
      at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
      const Tensor cast = made.map->forward(x), low = made.map->forward(x.to(at::kBFloat16));
      at::autocast::set_autocast_enabled(at::kCPU, false);
      at::autocast::clear_cache();
      EXPECT_EQ(cast.scalar_type(), at::kFloat);
      EXPECT_EQ(low.scalar_type(), at::kBFloat16);
      EXPECT_FALSE(torch::equal(cast, plain));  // the query's products were in bfloat16
      EXPECT_TRUE(cast.isfinite().all().item<bool>());
    }
  }
}

TEST(MemoryMap, UsageCountsEveryPositionsReads) {
  const BuiltMap made = built_map(3);
  const auto usage = std::make_shared<Usage>(kMapRows);
  const ObserverScope counting(*made.map->memory, usage);
  made.map->forward(torch::randn(map_sizes(3), at::kDouble));
  EXPECT_EQ(usage->metrics().reads, 2 * 3 * 5 * 2 * 2 * 4);
}

TEST(MemoryMap, RowOptimisersTrainTheRowsThatWereRead) {
  const BuiltMap made = built_map(2, {}, at::kFloat);
  std::vector<NamedParameter> dense;
  for (const auto& parameter : made.map->named_parameters()) dense.push_back({parameter.key(), parameter.value()});
  OptimizerSet optimizers(dense, {}, {{made.table, {}}}, 1);
  const Tensor before = made.table->store().values().detach().clone();
  const Tensor x = torch::randn({1, kMapChannels, 1, 2});
  const Tensor index = std::get<0>(at::_unique(made.map->read_with_indices(x).index));
  made.table->store().references().clear();
  made.map->forward(x).pow(2).sum().backward();
  optimizers.step(0, 10);
  const Tensor changed = (made.table->store().values().detach() != before).any(1).nonzero().squeeze(1);
  EXPECT_TRUE(torch::equal(changed, index));
  EXPECT_LT(changed.numel(), kMapRows);
}

TEST(MemoryMap, CalibrationTakesItsTokens) {
  const BuiltMap made = built_map(2, {}, at::kFloat);
  const Tensor x = torch::randn({40, kMapChannels, 4, 4}) * torch::rand({kMapChannels, 1, 1}) + 3;
  const Tensor before = made.table->store().values().detach().clone();
  calibrate(*made.map->memory, made.map->tokens(x).flatten(0, 2), {.seed = 2, .keep_values = true});
  EXPECT_TRUE(torch::equal(made.table->store().values(), before));
  const Tensor lengths = made.map->memory->keys1.norm(2, -1);
  EXPECT_TRUE(torch::allclose(lengths, at::ones_like(lengths)));
  calibrate(*made.map->memory, made.map->tokens(x).flatten(0, 2), {.seed = 2});
  EXPECT_EQ(made.table->store().values().abs().max().item<double>(), 0);
}

TEST(MemoryMap, OptionsThatDoNotFitAreRefused) {
  const std::vector<std::pair<std::string, std::function<void(MemoryMapOptions&)>>> bad = {
      {"MemoryMap: dimensions must be within 0 .. 3, got 4", [](auto& o) { o.dimensions = 4; }},
      {"ConvolutionQueryNet: kernels must be odd, got 2", [](auto& o) { o.query_kernels = {2}; }},
      {"ConvolutionQueryNet: kernels must be odd, got -1", [](auto& o) { o.query_kernels = {-1}; }},
      {"ConvolutionQueryNet: kernels must be 1 with dimensions 0, got 3",
       [](auto& o) { o.dimensions = 0, o.query_kernels = {3}; }},
      {"MemoryMap: query_kernels must be one more than the 0 query_hidden, got 2",
       [](auto& o) { o.query_kernels = {3, 1}; }},
      {"MemoryMap: query_kernels must be one more than the 1 query_hidden, got 1",
       [](auto& o) { o.query_hidden = {4}; }},
      {"ConvolutionQueryNet: channels must be at least 1, got 0",
       [](auto& o) { o.query_kernels = {3, 1}, o.query_hidden = {0}; }},
      {"width must be at least 1, got 0", [](auto& o) { o.width = 0; }},
      {"heads must be at least 1, got 0", [](auto& o) { o.heads = 0; }},
  };
  for (const auto& [message, change] : bad) {
    expect_error(ExitCode::usage, message, [&] { built_map(2, change); });
  }
  MemoryMapOptions options;
  options.width = 3;
  expect_error(ExitCode::usage, "table must be given, got none", [&] { MemoryMap("map", options, nullptr, 1); });
}

TEST(MemoryMap, MapsOfAnotherShapeAreRefused) {
  const BuiltMap made = built_map(2);
  const auto expect_refused = [&](const std::string& message, const Tensor& x, const Tensor& mask = {}) {
    try {
      made.map->forward(x, {.token_mask = mask, .generator = {}});
      ADD_FAILURE() << x.sizes() << " was accepted";
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what_without_backtrace(), testing::HasSubstr(message));
    }
  };
  const Tensor good = at::ones({2, kMapChannels, 3, 4}, at::kDouble);
  expect_refused("MemoryMap: x must be [B, C, height, width] with C = 5, got [2, 5, 3]", good.select(3, 0));
  expect_refused("MemoryMap: x must be [B, C, height, width] with C = 5, got [2, 3, 4, 5]", good.movedim(1, -1));
  expect_refused("x must be of a floating type, got Long", good.to(at::kLong));
  expect_refused("token_mask must be bool with 24 entries, one per token, got Bool [2, 3]", good,
                 at::ones({2, 3}, at::kBool));
}

}  // namespace
}  // namespace loci::memory_map_test
