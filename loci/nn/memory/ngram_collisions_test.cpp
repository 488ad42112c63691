#include "loci/nn/memory/ngram_collisions.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <map>
#include <set>

namespace loci::ngram_collisions_test {
namespace {

using at::Tensor;

TEST(NgramCollisions, CountsWhatACountByHandCounts) {
  torch::manual_seed(0);
  const NgramRows rows = ngram_rows({1, 2, 3}, 1, 300, 40, 3);
  NgramCollisions collisions(rows);
  std::map<int64_t, std::set<std::vector<int64_t>>> ngrams_of_row;  // rows of columns are different ones
  for (int i = 0; i < 3; ++i) {
    const Tensor tokens = torch::randint(40, {2, 25}, at::kLong), starts = at::zeros_like(tokens, at::kBool);
    collisions.add(tokens, starts);
    const Tensor row = rows.of(tokens, starts);
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t l = 0; l < 25; ++l) {
        std::vector<int64_t> ngram;
        for (int64_t n = 0; n < 3; ++n) {
          ngram.push_back(l - n < 0 ? 40 : tokens[b][l - n].item<int64_t>());
          ngrams_of_row[row[b][l][n].item<int64_t>()].insert(ngram);
        }
      }
    }
  }
  const auto orders = collisions.orders();
  ASSERT_EQ(orders.size(), 3u);
  EXPECT_EQ(orders[0].shared, 0);  // a row for each token
  for (const auto& found : orders) {
    int64_t distinct = 0, shared = 0;
    for (const auto& [row, ngrams] : ngrams_of_row) {
      if (std::ssize(*ngrams.begin()) != found.order) continue;
      distinct += std::ssize(ngrams);
      if (ngrams.size() > 1) shared += std::ssize(ngrams);
    }
    EXPECT_EQ(found.distinct, distinct);
    EXPECT_NEAR(found.shared, static_cast<double>(shared) / static_cast<double>(distinct), 1e-12);
  }
  EXPECT_GT(orders[2].shared, 0.2);
}

TEST(NgramCollisions, CountsOnlyWhatItIsTold) {
  NgramCollisions collisions(ngram_rows({1, 2}, 2, 300, 40, 3));
  EXPECT_TRUE(std::isnan(collisions.orders()[0].shared));
  const Tensor tokens = torch::tensor({{1, 2, 3, 4}}, at::kLong), none = at::zeros({1, 4}, at::kBool);
  Tensor counts = none.clone();
  counts[0][2] = true;
  collisions.add(tokens, none, counts);
  EXPECT_EQ(collisions.orders()[1].distinct, 1);
  collisions.add(tokens, none);
  collisions.add(tokens, none);
  EXPECT_EQ(collisions.orders()[1].distinct, 4);
}

}  // namespace
}  // namespace loci::ngram_collisions_test
