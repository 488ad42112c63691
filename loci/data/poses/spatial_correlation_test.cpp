#include "loci/data/poses/spatial_correlation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/base/random_sequence.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

// A camera that goes round once in `frames` frames, 3 m across.
std::vector<Vector3> circle(int64_t frames) {
  std::vector<Vector3> positions;
  for (int64_t i = 0; i < frames; ++i) {
    const double angle = 2 * M_PI * static_cast<double>(i) / static_cast<double>(frames);
    positions.push_back({1.5 * std::cos(angle), 1.5 * std::sin(angle), 1});
  }
  return positions;
}

// Four rows of equal mass an image: `bound` rows belong to the eighth of the circle that the image lies in, the others
// are drawn.
PlacedReads circle_reads(int64_t frames, int64_t bound, uint64_t seed) {
  PlacedReads reads;
  reads.positions = circle(frames);
  RandomSequence random(CounterRandom(seed, "spatial test"));
  for (int64_t i = 0; i < frames; ++i) {
    std::vector<int64_t> rows;
    for (int64_t j = 0; j < bound; ++j) rows.push_back(100 + 4 * (8 * i / frames) + j);
    while (rows.size() < 4) {
      const auto row = static_cast<int64_t>(random.below(40));
      if (std::ranges::find(rows, row) == rows.end()) rows.push_back(row);
    }
    std::vector<RowMass>& image = reads.rows.emplace_back();
    for (const int64_t row : rows) image.push_back({row, 0.25});
  }
  return reads;
}

TEST(SpatialCorrelationTest, RanksWithTiesAreCorrelated) {
  EXPECT_DOUBLE_EQ(rank_correlation(std::vector<double>{1, 2, 3}, std::vector<double>{10, 100, 1000}), 1);
  EXPECT_DOUBLE_EQ(rank_correlation(std::vector<double>{1, 2, 3}, std::vector<double>{3, 2, 1}), -1);
  // scipy.stats.spearmanr([1, 2, 2, 4, 5], [3, 1, 4, 4, 9])
  EXPECT_NEAR(rank_correlation(std::vector<double>{1, 2, 2, 4, 5}, std::vector<double>{3, 1, 4, 4, 9}),
              0.763157894736842, 1e-12);
  EXPECT_EQ(rank_correlation(std::vector<double>{1, 1, 1}, std::vector<double>{3, 2, 1}), 0);
}

// Sorted 0.001, 0.008, 0.039, 0.041 against 0.05 times 1/5 ... 4/5: the fourth passes at 0.041 > 0.04 no, the second
// does.
TEST(SpatialCorrelationTest, DiscoveriesAreThoseOfBenjaminiAndHochberg) {
  EXPECT_THAT(discoveries(std::vector<double>{0.041, 0.001, 0.9, 0.039, 0.008}, 0.05),
              testing::ElementsAre(false, true, false, false, true));
  // The largest that passes takes those below it along, although 0.03 alone does not pass.
  EXPECT_THAT(discoveries(std::vector<double>{0.03, 0.03, 0.03}, 0.05), testing::ElementsAre(true, true, true));
  EXPECT_THAT(discoveries({}, 0.05), testing::IsEmpty());
}

TEST(SpatialCorrelationTest, RowsTiedToPlaceAreFound) {
  const PlacedReads reads = circle_reads(240, 2, 1);
  const SpatialCorrelation found = spatial_correlation(reads, {.permutations = 199, .pairs = 1000});
  EXPECT_GT(found.overlap.value, 0.3);
  EXPECT_EQ(found.overlap.p, 1.0 / 200);
  EXPECT_GT(found.information.value, 0.3);
  EXPECT_EQ(found.information.p, 1.0 / 200);
  int64_t tied = 0;
  for (const RowSpread& row : found.rows) {
    if (row.row < 100) continue;
    ++tied;
    EXPECT_EQ(row.images, 30);
    EXPECT_LT(row.spread, 0.2) << row.row;
    EXPECT_TRUE(row.found);
  }
  EXPECT_EQ(tied, 16);
}

// A camera that wanders about and comes back to where it was: a row for each square metre of the floor.
TEST(SpatialCorrelationTest, RowsTiedToPlaceAreFoundAlongAPath) {
  PlacedReads reads;
  for (int64_t i = 0; i < 400; ++i) {
    const auto t = static_cast<double>(i);
    reads.positions.push_back({3 + 2 * std::sin(t / 17) + std::sin(t / 41), 3 + 3 * std::sin(t / 29), 1});
    const Vector3& at = reads.positions.back();
    reads.rows.push_back({{static_cast<int64_t>(at[0]) * 6 + static_cast<int64_t>(at[1]), 1.0}});
    reads.paths.push_back(0);
  }
  const SpatialCorrelation found = spatial_correlation(reads, {.permutations = 199, .shift = 40});
  EXPECT_GT(found.overlap.value, 0.2);
  EXPECT_EQ(found.overlap.p, 1.0 / 200);
  EXPECT_EQ(found.information.p, 1.0 / 200);
  EXPECT_LT(found.median_spread, 0.3);
  EXPECT_GT(found.below_half, 0.9);
}

// A shift in a circle of a camera that goes round in a circle changes no distance: nothing can be found, however much
// neighbours have in common. A shuffle would find everything.
TEST(SpatialCorrelationTest, FramesOfAPathAreShifted) {
  PlacedReads reads = circle_reads(240, 2, 1);
  reads.paths.assign(240, 0);
  const SpatialCorrelation found = spatial_correlation(reads, {.permutations = 99, .pairs = 1000, .shift = 40});
  EXPECT_GT(found.overlap.p, 0.2);
  EXPECT_GT(found.information.p, 0.2);
  EXPECT_NEAR(found.median_spread, 1, 0.1);
  EXPECT_EQ(found.found, 0);
}

TEST(SpatialCorrelationTest, ShiftsStayWithinAPathAndAreLong) {
  // Two paths, far from each other: a row of one path alone never gets positions of the other.
  PlacedReads reads;
  for (int64_t i = 0; i < 100; ++i) {
    const double along = static_cast<double>(i % 50) / 50;
    reads.positions.push_back({i < 50 ? along : 1000 + along, 0, 0});
    reads.paths.push_back(i < 50 ? 3 : 1);
    reads.rows.push_back({{i < 50 ? 0 : 1, 1.0}});
  }
  const SpatialCorrelation found = spatial_correlation(reads, {.permutations = 50, .shift = 20});
  ASSERT_EQ(found.rows.size(), 2U);
  for (const RowSpread& row : found.rows) EXPECT_NEAR(row.spread, 1, 1e-6);
  EXPECT_NEAR(found.information.value, 0, 1e-9);
  expect_error(ExitCode::usage, "a path must have at least 51 frames to be shifted by 25, got 50",
               [&] { spatial_correlation(reads, {.shift = 25}); });
}

// Of 41 frames a shift of at least 20 is one of 20 or 21: the halves change places, and as much is known as before.
TEST(SpatialCorrelationTest, ShiftsAreLongBothWays) {
  PlacedReads reads;
  for (int64_t i = 0; i < 41; ++i) {
    reads.positions.push_back({i < 20 ? 0.1 : 2.1, 0, 0});
    reads.rows.push_back({{i < 20 ? 0 : 1, 1.0}});
    reads.paths.push_back(0);
  }
  const SpatialCorrelation found = spatial_correlation(reads, {.permutations = 50, .shift = 20});
  EXPECT_GE(found.information.value, 0);
  EXPECT_LT(found.information.value, 0.12);  // ln 2 less, at most, that of one frame in the other half
}

// Two rows whose masses change along a line: the overlap is 1 - the difference of the masses.
TEST(SpatialCorrelationTest, TheOverlapIsThatOfTheSmallerMasses) {
  PlacedReads reads;
  for (int64_t i = 1; i < 100; ++i) {
    const double share = static_cast<double>(i) / 100;
    reads.positions.push_back({share, 0, 0});
    reads.rows.push_back({{5, 1 - share}, {2, share}});
  }
  EXPECT_NEAR(spatial_correlation(reads, {.permutations = 9}).overlap.value, 1, 1e-3);
}

// Under the null, p is uniform: its distribution is compared with the diagonal (Kolmogorov and Smirnov, 1 %).
TEST(SpatialCorrelationTest, OfRowsAtRandomPIsUniform) {
  constexpr int64_t kNulls = 200;
  std::vector<double> overlap, information;
  for (int64_t i = 0; i < kNulls; ++i) {
    PlacedReads reads = circle_reads(60, 0, static_cast<uint64_t>(i));
    const SpatialCorrelation found = spatial_correlation(
        reads, {.permutations = 99, .pairs = 300, .fewest_images = 5, .seed = static_cast<uint64_t>(i)});
    overlap.push_back(found.overlap.p);
    information.push_back(found.information.p);
  }
  for (std::vector<double>& p : {std::ref(overlap), std::ref(information)}) {
    std::sort(p.begin(), p.end());
    double distance = 0;
    for (int64_t i = 0; i < kNulls; ++i) {
      distance = std::max(distance, std::abs(p[i] - static_cast<double>(i + 1) / kNulls));
    }
    EXPECT_LT(distance, 1.63 / std::sqrt(static_cast<double>(kNulls)) + 0.01);  // p has steps of 0.01
  }
}

TEST(SpatialCorrelationTest, NumbersAreThoseOfTheDefinitions) {
  // Rows 0 and 1 in two cells of the floor: information is ln 2 less its mean, spread by hand.
  PlacedReads reads;
  for (int64_t i = 0; i < 40; ++i) {
    reads.positions.push_back({0, i < 20 ? 0.1 : 2.1, 5});
    reads.rows.push_back({{i < 20 ? 0 : 1, 1.0}});
  }
  reads.rows[0] = {{1, 0.25}, {0, 0.75}};
  const SpatialOptions options = {.permutations = 400, .pairs = 500, .fewest_images = 21};
  const SpatialCorrelation found = spatial_correlation(reads, options);
  ASSERT_EQ(found.rows.size(), 1U) << "row 0 has 20 images";
  EXPECT_EQ(found.rows[0].row, 1);
  EXPECT_EQ(found.rows[0].images, 21);
  EXPECT_NEAR(found.rows[0].mass, 20.25 / 40, 1e-12);
  // Variance 4 * s (1 - s) with s = 0.25 / 20.25; under shuffles about that of all images, 1.
  const double s = 0.25 / 20.25;
  EXPECT_NEAR(found.rows[0].spread, 4 * s * (1 - s), 0.1 * 4 * s * (1 - s));
  EXPECT_NEAR(found.information.value, std::log(2) - 0.06, 0.06);
  EXPECT_EQ(found.below_half, 1);
  EXPECT_EQ(found.found, 1);

  PlacedReads one;
  one.rows = {{{0, 1.0}}};
  one.positions = {{0, 0, 0}};
  expect_error(ExitCode::usage, "there must be two images, got 1", [&] { spatial_correlation(one); });
}

}  // namespace
}  // namespace loci
