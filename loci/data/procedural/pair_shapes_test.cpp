#include "loci/data/procedural/pair_shapes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <map>
#include <set>
#include <thread>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

constexpr int64_t kFrame = 32 * 32;

// '#' for the set bits of 108de1d 1d3e241 0c5351d 0ddc84a 0c8e66c 019bcaa, written down by hand.
constexpr std::array<std::array<const char*, 5>, 6> kPictures = {{{"#....", "#...#", "#.###", "#....", "###.#"},
                                                                  {"###.#", "..###", "##...", "#..#.", "....#"},
                                                                  {".##..", ".#.#.", ".##.#", ".#...", "###.#"},
                                                                  {".##.#", "##.##", "#..#.", "...#.", ".#.#."},
                                                                  {".##..", "#...#", "##..#", "#..##", ".##.."},
                                                                  {"....#", "#..##", ".####", "..#.#", ".#.#."}}};

PairShapesOptions clips(int64_t frames, PairVariant variant, double noise = 0.1) {
  return {.frames = frames, .variant = variant, .noise = noise};
}

std::vector<float> drawn(const PairShapesOptions& options, uint64_t seed, int64_t sample) {
  std::vector<float> frames(static_cast<size_t>(options.numbers()));
  int64_t label = -1;
  PairShapes(options, seed, "test").fill(sample, 1, frames.data(), &label);
  return frames;
}

void add_picture(int64_t pattern, const PairCorner& at, float* frame) {
  for (int64_t y = 0; y < 5; ++y) {
    for (int64_t x = 0; x < 5; ++x) {
      const bool set = kPictures[static_cast<size_t>(pattern)][static_cast<size_t>(y)][x] == '#';
      frame[(at.y + y) * 32 + at.x + x] += set ? 1 : -1;
    }
  }
}

TEST(PairShapesTest, PatternsAreThoseOfTheirCodes) {
  for (int64_t pattern = 0; pattern < 6; ++pattern) {
    for (int64_t y = 0; y < 5; ++y) {
      for (int64_t x = 0; x < 5; ++x) {
        const char expected = kPictures[static_cast<size_t>(pattern)][static_cast<size_t>(y)][x];
        EXPECT_EQ(pair_pattern_bit(pattern, x, y) ? '#' : '.', expected) << pattern << " " << x << " " << y;
      }
    }
  }
}

// The argument for chance needs the second line: whoever counts patterns alone learns nothing of the label.
TEST(PairShapesTest, ClassesAreBalancedAndHaveTheSamePatterns) {
  const PairShapes shapes({}, 5, "test");
  const int64_t count = 60'000;
  std::array<int64_t, 2> classes = {};
  std::array<std::array<std::array<int64_t, 6>, 2>, 2> seen = {};  // [label][a or b][pattern]
  std::map<std::pair<int64_t, int64_t>, int64_t> pairs;
  for (int64_t i = 0; i < count; ++i) {
    const PairLayout layout = shapes.layout(i);
    ASSERT_EQ(layout.label(), layout.a == layout.b ? 1 : 0);
    const auto label = static_cast<size_t>(layout.label());
    ++classes.at(label);
    ++seen[label][0].at(static_cast<size_t>(layout.a));
    ++seen[label][1].at(static_cast<size_t>(layout.b));
    ++pairs[{layout.a, layout.b}];
  }
  const auto expect_share = [&](int64_t hits, double share) {
    EXPECT_NEAR(static_cast<double>(hits), count * share, 5 * std::sqrt(count * share * (1 - share)));
  };
  for (const size_t label : {0, 1}) {
    expect_share(classes.at(label), 0.5);
    for (const auto& patterns : seen.at(label)) {
      for (const int64_t hits : patterns) expect_share(hits, 0.5 / 6);
    }
  }
  ASSERT_EQ(pairs.size(), 36u);
  for (const auto& [pair, hits] : pairs) expect_share(hits, pair.first == pair.second ? 0.5 / 6 : 0.5 / 30);
}

TEST(PairShapesTest, CornersAreFarApartAndAnywhere) {
  for (const PairShapesOptions& options :
       {PairShapesOptions{}, clips(4, PairVariant::cross), clips(8, PairVariant::space), clips(4, PairVariant::time)}) {
    const bool same_place = options.frames > 1 && options.variant == PairVariant::time;
    const PairShapes shapes(options, 6, "test");
    std::array<double, 4> sums = {};
    std::set<int64_t> xs, ys, square_xs;
    const int64_t count = 20'000;
    for (int64_t i = 0; i < count; ++i) {
      const PairLayout layout = shapes.layout(i);
      const int64_t dx = std::abs(layout.p.x - layout.q.x), dy = std::abs(layout.p.y - layout.q.y);
      if (same_place) {
        ASSERT_EQ(layout.p, layout.q);
      } else {
        ASSERT_GE(std::max(dx, dy), 17);
      }
      for (const PairCorner& corner : {layout.p, layout.q}) {
        ASSERT_GE(std::min(corner.x, corner.y), 0);
        ASSERT_LE(std::max(corner.x, corner.y), 27);
      }
      for (const PairCorner& corner : layout.squares) {
        ASSERT_GE(std::min(corner.x, corner.y), 0);
        ASSERT_LE(std::max(corner.x, corner.y), 23);
        square_xs.insert(corner.x);
      }
      const bool gap = options.frames > 1 && options.variant != PairVariant::space;
      ASSERT_EQ(layout.squares.size(), gap ? 2u : 0u);
      const std::array<int64_t, 4> places = {layout.p.x, layout.p.y, layout.q.x, layout.q.y};
      for (size_t k = 0; k < 4; ++k) sums[k] += static_cast<double>(places[k]);
      xs.insert(layout.p.x);
      ys.insert(layout.q.y);
    }
    EXPECT_EQ(xs.size(), 28u);
    EXPECT_EQ(ys.size(), 28u);
    EXPECT_EQ(square_xs.size(), options.frames == 1 || options.variant == PairVariant::space ? 0u : 24u);
    // By symmetry; deviation of a coordinate is at most 13.5.
    for (const double sum : sums) EXPECT_NEAR(sum / count, 13.5, 5 * 13.5 / std::sqrt(count));
  }
}

// Every frame of every variant, drawn once more from the layout.
TEST(PairShapesTest, FramesShowWhatTheirVariantSays) {
  struct Case {
    PairShapesOptions options;
    std::vector<std::string> frames;  // of "a", "b", "ab"; a digit is a square
  };
  const std::vector<Case> cases = {{clips(1, PairVariant::cross, 0), {"ab"}},
                                   {clips(4, PairVariant::cross, 0), {"a", "0", "1", "b"}},
                                   {clips(8, PairVariant::cross, 0), {"a", "a", "a", "0", "1", "b", "b", "b"}},
                                   {clips(4, PairVariant::time, 0), {"a", "0", "1", "b"}},
                                   {clips(8, PairVariant::time, 0), {"a", "a", "a", "0", "1", "b", "b", "b"}},
                                   {clips(4, PairVariant::space, 0), {"ab", "ab", "ab", "ab"}}};
  for (const Case& c : cases) {
    const PairShapes shapes(c.options, 7, "test");
    for (int64_t sample = 0; sample < 40; ++sample) {
      const PairLayout layout = shapes.layout(sample);
      std::vector<float> expected(static_cast<size_t>(c.options.numbers()));
      float* frame = expected.data();
      for (const std::string& shown : c.frames) {
        for (const char what : shown) {
          if (what == 'a') add_picture(layout.a, layout.p, frame);
          if (what == 'b') add_picture(layout.b, layout.q, frame);
          if (what != '0' && what != '1') continue;
          const PairCorner at = layout.squares.at(static_cast<size_t>(what - '0'));
          for (int64_t i = 0; i < 81; ++i) frame[(at.y + i / 9) * 32 + at.x + i % 9] = 1;
        }
        frame += kFrame;
      }
      ASSERT_EQ(drawn(c.options, 7, sample), expected) << c.options.text() << " sample " << sample;
    }
  }
}

TEST(PairShapesTest, NoiseHasItsDeviation) {
  const PairShapesOptions plain = clips(8, PairVariant::cross, 0), noisy = clips(8, PairVariant::cross, 0.3);
  double sum = 0, squares = 0, neighbours = 0;
  for (int64_t sample = 0; sample < 8; ++sample) {
    const std::vector<float> a = drawn(plain, 1, sample), b = drawn(noisy, 1, sample);
    double before = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const double noise = b[i] - a[i];
      sum += noise;
      squares += noise * noise;
      neighbours += noise * before;
      before = noise;
    }
  }
  const double count = 8 * 8 * kFrame, five_sigma = 5 / std::sqrt(count);
  EXPECT_NEAR(sum / count, 0, 0.3 * five_sigma);
  EXPECT_NEAR(squares / count, 0.09, 0.09 * std::sqrt(2) * five_sigma);
  EXPECT_NEAR(neighbours / count, 0, 0.09 * five_sigma);
}

TEST(PairShapesTest, ASampleIsTheSameAloneAndInAnyThread) {
  const PairShapesOptions options = clips(4, PairVariant::cross);
  const PairShapes shapes(options, 8, "test");
  std::vector<float> together(static_cast<size_t>(20 * options.numbers()));
  std::vector<int64_t> labels(20);
  std::thread([&] { shapes.fill(100, 20, together.data(), labels.data()); }).join();
  std::set<std::vector<float>> different;
  for (int64_t i = 0; i < 20; ++i) {
    const auto begin = together.begin() + i * options.numbers();
    const std::vector<float> alone = drawn(options, 8, 100 + i);
    EXPECT_EQ(alone, std::vector<float>(begin, begin + options.numbers())) << i;
    EXPECT_EQ(labels[static_cast<size_t>(i)], shapes.layout(100 + i).label());
    different.insert(alone);
  }
  EXPECT_EQ(different.size(), 20u);
  EXPECT_NE(drawn(options, 8, 100), drawn(options, 9, 100)) << "another seed";
  std::vector<float> other(static_cast<size_t>(options.numbers()));
  PairShapes(options, 8, "other").fill(100, 1, other.data(), labels.data());
  EXPECT_NE(drawn(options, 8, 100), other) << "another stream";
}

TEST(PairShapesTest, FramesAreOneFourOrEight) {
  expect_error(ExitCode::usage, "data.frames must be 1, 4 or 8, got 5",
               [] { PairShapes(clips(5, PairVariant::cross), 0, "test"); });
}

}  // namespace
}  // namespace loci
