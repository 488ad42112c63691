#include "loci/nn/small/subset_backprop.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "loci/nn/small/straight_through.h"
#include "tests/op_harness.h"

// Legend: N rows, H of them kept.

namespace loci::subset_backprop_test {
namespace {

using torch::Tensor;

constexpr int64_t kRows = 12, kKept = 3;

RandomSequence sequence(uint64_t seed = 1) {
  return RandomSequence(CounterRandom(seed, "subset"));
}

Tensor numbers(uint64_t seed, at::IntArrayRef sizes) {
  Tensor x = torch::empty(sizes, torch::kDouble);
  const CounterRandom random(seed, "numbers");
  for (int64_t i = 0; i < x.numel(); ++i) x.data_ptr<double>()[i] = random.normal(static_cast<uint64_t>(i));
  return x;
}

// Distances of queries from a pooled support, both embedded by one weight; with `twice` the embedding is bent by what a
// second pooling gave, and it is the gradient of that one that is asked for.
struct Pooled {
  Tensor support = numbers(1, {kRows, 4}), queries = numbers(2, {6, 4}) + 1;
  Tensor weight = numbers(3, {4, 5}).requires_grad_(), bend = numbers(4, {4, 5}).requires_grad_();
  bool twice = false;

  using Pool = std::function<Tensor(const Tensor& rows, const EmbedRows& embed)>;

  Tensor gradient(const Pool& first, const Pool& second, double of_all = 1) const {
    Tensor factor = torch::ones({5}, torch::kDouble);
    if (twice) factor = 1 + first(support, [&](const Tensor& x) { return x.mm(bend).tanh(); }).mean(0);
    const EmbedRows embed = [&](const Tensor& x) { return (x.mm(weight) * factor).tanh(); };
    const Tensor centre = second(support, embed).mean(0);
    const Tensor loss = of_all * (embed(queries) - centre).pow(2).sum(1).mul(2).exp().log1p().mean();
    return torch::autograd::grad({loss}, {twice ? bend : weight})[0];
  }
  Tensor full() const {
    const Pool all = [](const Tensor& rows, const EmbedRows& embed) { return embed(rows); };
    return gradient(all, all);
  }
};

// The distance of the mean gradient over many draws from the full one, in units of its own Monte-Carlo noise: about 1
// without a bias.
double bias_in_noise(const Pooled& model, const std::function<Tensor(RandomSequence&)>& gradient) {
  constexpr int64_t draws = 600;
  RandomSequence random = sequence(7);
  std::vector<Tensor> found;
  for (int64_t i = 0; i < draws; ++i) found.push_back(gradient(random));
  const Tensor all = torch::stack(found);
  const double noise = std::sqrt(all.var(0).sum().item<double>() / draws);
  return (all.mean(0) - model.full()).norm().item<double>() / noise;
}

Pooled::Pool pool(RandomSequence& random, bool scale = true) {
  return [&random, scale](const Tensor& rows, const EmbedRows& embed) {
    return subset_backprop(rows, embed, {.kept = kKept, .chunk = 4, .scale = scale}, random);
  };
}

TEST(SubsetBackprop, TheMeanGradientIsTheFullOneAndOtherScalesAreBiased) {
  const Pooled model;
  const auto bias = [&](bool scale, double of_all) {
    return bias_in_noise(
        model, [&](RandomSequence& random) { return model.gradient(pool(random), pool(random, scale), of_all); });
  };
  EXPECT_LT(bias(true, 1), 2);
  EXPECT_GT(bias(false, 1), 2) << "nothing is scaled";
  EXPECT_GT(bias(false, static_cast<double>(kRows) / kKept), 2) << "everything is scaled";
}

TEST(SubsetBackprop, TwoPoolingsNeedTwoDraws) {
  Pooled model;
  model.twice = true;
  EXPECT_LT(bias_in_noise(model, [&](RandomSequence& random) { return model.gradient(pool(random), pool(random)); }),
            2);
  const double shared = bias_in_noise(model, [&](RandomSequence& random) {
    RandomSequence same = random;
    return model.gradient(pool(same), pool(random));
  });
  EXPECT_GT(shared, 2) << "one draw for both";
}

TEST(SubsetBackprop, WithAllRowsItIsTheEmbeddingBitForBit) {
  const Pooled model;
  RandomSequence random = sequence();
  const Pooled::Pool all = [&](const Tensor& rows, const EmbedRows& embed) {
    return subset_backprop(rows, embed, {.kept = kRows, .chunk = 5}, random);
  };
  EXPECT_TRUE(harness::same_bits(model.gradient(all, all), model.full()));
  const Tensor y = subset_backprop(model.support, [](const Tensor& x) { return x.sin(); }, {.kept = kRows}, random);
  EXPECT_TRUE(harness::same_bits(y, model.support.sin()));
}

// Each row's sums run over its own numbers alone.
TEST(SubsetBackprop, ValuesAreTheExactOnesAndChunksDoNotChangeABit) {
  const Tensor rows = numbers(5, {11, 3, 4}), weight = numbers(6, {3, 4}).requires_grad_();
  const EmbedRows embed = [&](const Tensor& x) { return (x * weight).tanh().sum(2); };
  const Tensor grad = numbers(7, {11, 3}), expected = embed(rows);
  Tensor first;
  for (const int64_t chunk : {1, 2, 3, 7, 8, 100}) {
    RandomSequence random = sequence();
    const Tensor y = subset_backprop(rows, embed, {.kept = 4, .chunk = chunk}, random);
    EXPECT_TRUE(harness::same_bits(y.detach(), expected.detach())) << chunk;
    EXPECT_TRUE(harness::same_bits(embed_in_chunks(rows, embed, chunk), expected.detach())) << chunk;
    const Tensor of_weight = torch::autograd::grad({y}, {weight}, {grad})[0];
    if (!first.defined()) first = of_weight;
    EXPECT_TRUE(harness::same_bits(of_weight, first)) << chunk;
  }
}

TEST(SubsetBackprop, KeptRowsAloneGetTheGradientTimesTheirFactor) {
  const Tensor rows = numbers(8, {10, 2}).requires_grad_(), grad = numbers(9, {10, 2});
  const EmbedRows twice = [](const Tensor& x) { return 2 * x; };
  for (const bool scale : {true, false}) {
    RandomSequence random = sequence(), same = random;
    const Tensor y = subset_backprop(rows, twice, {.kept = 4, .chunk = 3, .scale = scale}, random);
    const Tensor chosen = draw_subset(10, 4, same);
    EXPECT_EQ(random.position(), same.position());
    Tensor expected = torch::zeros_like(grad);
    expected.index_copy_(0, chosen, grad.index_select(0, chosen) * (scale ? 2.5 : 1.0) * 2);
    EXPECT_TRUE(torch::equal(torch::autograd::grad({y}, {rows}, {grad})[0], expected)) << scale;
  }
}

TEST(SubsetBackprop, KeptRowsAreOneCallWithGradientAndTheOthersAreChunksWithout) {
  std::vector<std::pair<int64_t, bool>> calls;
  const EmbedRows embed = [&](const Tensor& x) {
    calls.emplace_back(x.size(0), torch::GradMode::is_enabled());
    return x + 1;
  };
  RandomSequence random = sequence();
  subset_backprop(numbers(1, {10, 2}), embed, {.kept = 3, .chunk = 4}, random);
  EXPECT_THAT(calls, testing::ElementsAre(std::pair(3, true), std::pair(4, false), std::pair(3, false)));
}

TEST(SubsetBackprop, DrawsAreRepeatedByTheSequenceAndEvenlySpread) {
  RandomSequence random = sequence(), again = sequence();
  Tensor counts = torch::zeros({5}, torch::kLong);
  for (int64_t draw = 0; draw < 3000; ++draw) {
    const Tensor chosen = draw_subset(5, 2, random);
    EXPECT_TRUE(torch::equal(chosen, draw_subset(5, 2, again)));
    EXPECT_LT(chosen[0].item<int64_t>(), chosen[1].item<int64_t>());
    counts.index_add_(0, chosen, torch::ones({2}, torch::kLong));
  }
  // 1,200 each; the deviation of such a count is 27.
  EXPECT_LT((counts - 1200).abs().max().item<int64_t>(), 110) << counts;
  EXPECT_EQ(draw_subset(5, 0, random).numel(), 0);
  EXPECT_TRUE(torch::equal(draw_subset(4, 4, random), torch::arange(4)));
  RandomSequence fixed(CounterRandom(3, "support"), 10);
  EXPECT_TRUE(torch::equal(draw_subset(20, 5, fixed), torch::tensor({2, 3, 5, 8, 18})));
}

TEST(SubsetBackprop, WeightsLearnUnderAutocast) {
  const Tensor rows = numbers(1, {8, 4}).to(torch::kFloat);
  const Tensor weight = numbers(3, {4, 5}).to(torch::kFloat).requires_grad_();
  RandomSequence random = sequence();
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Tensor y = subset_backprop(rows, [&](const Tensor& x) { return x.mm(weight); }, {.kept = 2}, random);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
  EXPECT_GT(torch::autograd::grad({y.to(torch::kFloat).sum()}, {weight})[0].abs().min().item<float>(), 0);
}

TEST(SubsetBackprop, RefusesBadInputInThreeParts) {
  const auto message = [](int64_t rows, int64_t kept, int64_t chunk, const EmbedRows& embed) {
    RandomSequence random = sequence();
    return harness::message_of(
        [&] { subset_backprop(torch::zeros({rows, 2}), embed, {.kept = kept, .chunk = chunk}, random); });
  };
  const EmbedRows same = [](const Tensor& x) { return x; };
  EXPECT_THAT(message(4, 5, 1, same), testing::HasSubstr("subset_backprop: kept must be in 1 .. 4 (the rows), got 5"));
  EXPECT_THAT(message(4, 0, 1, same), testing::HasSubstr("kept must be in 1 .. 4 (the rows), got 0"));
  EXPECT_THAT(message(4, 1, 0, same), testing::HasSubstr("subset_backprop: chunk must be at least 1, got 0"));
  EXPECT_THAT(message(0, 1, 1, same), testing::HasSubstr("rows must be [N, ...] with N >= 1, got [0, 2]"));
  const std::string pooled = message(4, 2, 1, [](const Tensor& x) { return x.mean(0, /*keepdim=*/true); });
  EXPECT_THAT(pooled, testing::HasSubstr("embed must give one row for each of its 2, got [1, 2]"));
  RandomSequence random = sequence();
  EXPECT_THAT(harness::message_of([&] { draw_subset(3, 4, random); }),
              testing::HasSubstr("draw_subset: kept must be in 0 .. 3, got 4"));
}

}  // namespace
}  // namespace loci::subset_backprop_test
