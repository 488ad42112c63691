#include "loci/tasks/attention_map.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <numeric>

namespace loci::attention_map_test {
namespace {

using torch::Tensor;

constexpr int64_t kFrames = 2, kHeight = 4, kWidth = 6;

NonLocalOptions clip_options() {
  NonLocalOptions options;
  options.channels = 3;
  options.dimensions = 3;
  options.pool = PairPool::none;
  options.norm = PairNorm::none;
  return options;
}

// With weights everywhere, so that it adds something.
std::shared_ptr<NonLocal> clip_block(const NonLocalOptions& options) {
  torch::manual_seed(1);
  auto block = std::make_shared<NonLocal>("block", options, 1);
  const torch::NoGradGuard guard;
  block->output_weight.normal_();
  return block;
}

nlohmann::json attention_in(const std::shared_ptr<NonLocal>& block, const Tensor& x, int64_t queries) {
  const KeptInputs kept({{"layer2.0", block}}, x.size(0));
  block->forward(x);
  const std::vector<nlohmann::json> maps = kept.attention_maps(queries);
  EXPECT_EQ(std::ssize(maps), x.size(0));
  EXPECT_EQ(maps[0].size(), 1);
  return maps[0][0];
}

// A query's weights lie in its window of 1 x 2 x 3: those of a block over everything with the window as a mask.
TEST(AttentionMap, WeightsLieAmongTheKeysOfTheWholeMap) {
  NonLocalOptions options = clip_options();
  const auto masked = clip_block(options);
  options.domain = PairDomain::window;
  options.window = {1, 2, 3};
  const auto block = clip_block(options);
  const Tensor x = torch::randn({2, 3, kFrames, kHeight, kWidth});
  const nlohmann::json map = attention_in(block, x, 3);
  EXPECT_EQ(map["block"], "layer2.0");
  EXPECT_EQ(map["map"], nlohmann::json({kFrames, kHeight, kWidth}));
  EXPECT_EQ(map["keys"], map["map"]);

  const auto window_of = [](int64_t n) {
    return n / (kHeight * kWidth) * 100 + n / kWidth % kHeight / 2 * 10 + n % kWidth / 3;
  };
  const int64_t N = kFrames * kHeight * kWidth;
  Tensor mask = torch::empty({N, N}, torch::kBool);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t m = 0; m < N; ++m) mask[n][m] = window_of(n) == window_of(m);
  }
  const auto [z, p] = masked->forward_with_map(x, mask);
  const Tensor added = (z - x).norm(2, 1)[0], input = x.norm(2, 1)[0];  // [T, H, W]
  ASSERT_EQ(map["queries"].size(), 3);
  double before = added.max().item<double>();
  for (const nlohmann::json& query : map["queries"]) {
    const auto at = query["at"].get<std::array<int64_t, 3>>();
    const auto here = added[at[0]][at[1]][at[2]].item<double>();
    EXPECT_NEAR(query["adds"].get<double>(), here / input[at[0]][at[1]][at[2]].item<double>(), 1e-4);
    EXPECT_LE(here, before);
    before = here;
    const auto weight = query["weight"].get<std::vector<double>>();
    const Tensor expected = p[0][(at[0] * kHeight + at[1]) * kWidth + at[2]];
    ASSERT_EQ(std::ssize(weight), N);
    for (int64_t m = 0; m < N; ++m) EXPECT_NEAR(weight[static_cast<size_t>(m)], expected[m].item<double>(), 1e-4);
  }
  const auto first = map["queries"][0]["at"].get<std::array<int64_t, 3>>();
  EXPECT_EQ(added[first[0]][first[1]][first[2]].item<double>(), added.max().item<double>());
}

TEST(AttentionMap, QueriesStandApartAndEndWhenAllPositionsAreNear) {
  NonLocalOptions options = clip_options();
  options.dimensions = 2;
  const auto block = clip_block(options);
  const nlohmann::json queries = attention_in(block, torch::randn({1, 3, 8, 8}), 50)["queries"];
  EXPECT_GT(queries.size(), 3);
  EXPECT_LT(queries.size(), 50);
  for (size_t i = 0; i < queries.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const auto a = queries[i]["at"].get<std::array<int64_t, 3>>(), b = queries[j]["at"].get<std::array<int64_t, 3>>();
      EXPECT_GT(std::max(std::abs(a[1] - b[1]), std::abs(a[2] - b[2])), 2);
    }
  }
}

// Of `dot`, whose weights may be negative, the shares of their sizes; of pooled keys, those of the cells.
TEST(AttentionMap, WeightsAreSharesOfPooledKeys) {
  NonLocalOptions options = clip_options();
  options.form = PairForm::dot;
  options.pool = PairPool::before;
  const nlohmann::json map = attention_in(clip_block(options), torch::randn({1, 3, kFrames, kHeight, kWidth}), 1);
  EXPECT_EQ(map["keys"], nlohmann::json({kFrames, kHeight / 2, kWidth / 2}));
  const auto weight = map["queries"][0]["weight"].get<std::vector<double>>();
  EXPECT_EQ(std::ssize(weight), kFrames * kHeight * kWidth / 4);
  EXPECT_THAT(weight, testing::Each(testing::Ge(0)));
  EXPECT_NEAR(std::accumulate(weight.begin(), weight.end(), 0.0), 1, 1e-3);
}

TEST(AttentionMap, InputsAreForgottenAtTheEnd) {
  NonLocalOptions options = clip_options();
  options.dimensions = 2;
  const auto block = clip_block(options);
  const Tensor x = torch::randn({3, 3, 4, 4}).requires_grad_();
  {
    const KeptInputs kept({{"block", block}}, 2);
    EXPECT_TRUE(kept.attention_maps().empty());
    block->forward(x);
    EXPECT_TRUE(torch::equal(block->kept_input(), x.narrow(0, 0, 2)));
    EXPECT_FALSE(block->kept_input().requires_grad());
  }
  block->forward(x);
  EXPECT_FALSE(block->kept_input().defined());
}

}  // namespace
}  // namespace loci::attention_map_test
