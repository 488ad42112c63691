#include "loci/data/procedural/view_items.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/temporary_folder.h"

namespace loci::view_items_test {
namespace {

std::vector<float> drawn(const ViewItemsOptions& options, uint64_t seed, int64_t item, int64_t view) {
  std::vector<float> x(static_cast<size_t>(options.width));
  ViewItems(options, seed).draw(item, view, x.data());
  return x;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(a[i] - b[i], 2);
  return std::sqrt(sum);
}

TEST(ViewItemsTest, SharesAreThoseOfTheOptions) {
  const ViewItemsOptions options;
  const ViewItems items(options, 1);
  int64_t clean = 0, present = 0, all_missing = 0;
  for (int64_t i = 0; i < options.items(); ++i) {
    int64_t of_item = 0;
    for (int64_t k = 0; k < 3; ++k) clean += items.clean(i, k), of_item += items.present(i, k);
    present += of_item;
    all_missing += of_item == 0;
  }
  const auto views = static_cast<double>(3 * options.items());
  EXPECT_NEAR(static_cast<double>(clean) / views, 0.5, 0.02);
  EXPECT_NEAR(static_cast<double>(present) / views, 0.8, 0.02);
  EXPECT_NEAR(static_cast<double>(all_missing) / (views / 3), 0.008, 0.006);
}

TEST(ViewItemsTest, ItemsDependOnSeedItemAndViewAlone) {
  const ViewItemsOptions options{.noisy_share = 0, .missing_share = 0};
  ViewItemsOptions larger = options;
  larger.warm *= 2;
  EXPECT_EQ(drawn(options, 1, 77, 2), drawn(larger, 1, 77, 2));
  for (const auto& other : {drawn(options, 2, 77, 2), drawn(options, 1, 78, 2), drawn(options, 1, 77, 1)}) {
    EXPECT_GT(distance(drawn(options, 1, 77, 2), other), 1);
  }
}

// Of clean views, items of a cluster are nearer to each other than to others; of noisy ones hardly.
TEST(ViewItemsTest, CleanViewsTellClustersApartAndNoisyOnesHardlyDo) {
  for (const double noisy_share : {0.0, 1.0}) {
    const ViewItemsOptions options{.noisy_share = noisy_share, .missing_share = 0};
    int64_t right = 0;
    for (int64_t i = 0; i < 200; ++i) {
      const auto x = drawn(options, 1, i, 0);
      right += distance(x, drawn(options, 1, i + 60, 0)) < distance(x, drawn(options, 1, i + 61, 0));
    }
    EXPECT_EQ(right > 180, noisy_share == 0);
    EXPECT_EQ(right < 150, noisy_share == 1);
  }
}

TEST(ViewItemsTest, MissingViewsAreZerosAndNoisyOnesMayBeHidden) {
  ViewItemsOptions options;
  const ViewItems items(options, 1);
  options.hide_noisy = true;
  const ViewItems hidden(options, 1);
  const std::vector<float> zeros(32, 0.0F);
  for (int64_t i = 0; i < 100; ++i) {
    for (int64_t k = 0; k < 3; ++k) {
      EXPECT_EQ(hidden.present(i, k), items.present(i, k) && items.clean(i, k));
      EXPECT_EQ(drawn(options, 1, i, k) == zeros, !hidden.present(i, k));
    }
  }
}

TEST(ViewItemsTest, AClusterNeedsTwoWarmItems) {
  expect_error(ExitCode::usage, "data.warm must be at least 2 * data.clusters = 120, got 119",
               [] { ViewItems({.warm = 119}, 0); });
}

}  // namespace
}  // namespace loci::view_items_test
