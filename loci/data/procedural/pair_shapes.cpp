#include "loci/data/procedural/pair_shapes.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "loci/base/check.h"
#include "loci/base/random_sequence.h"

namespace loci {
namespace {

using Pair = PairShapesOptions;

// Row by row, the highest bit first.
constexpr std::array<uint32_t, Pair::kPatterns> kPatternBits = {0x108de1d, 0x1d3e241, 0x0c5351d,
                                                                0x0ddc84a, 0x0c8e66c, 0x019bcaa};
constexpr int64_t kGapFrames = 2;                       // between a and b
constexpr uint64_t kNoisePosition = uint64_t{1} << 32;  // of a sample's draws; those of its layout come before

PairCorner draw_corner(RandomSequence& random, int64_t side) {
  const auto places = static_cast<uint64_t>(Pair::kSide - side + 1);
  const auto x = static_cast<int64_t>(random.below(places));
  return {x, static_cast<int64_t>(random.below(places))};
}

int64_t corner_distance(const PairCorner& p, const PairCorner& q) {
  return std::max(std::abs(p.x - q.x), std::abs(p.y - q.y));
}

void add_pattern(int64_t pattern, const PairCorner& corner, float* frame) {
  for (int64_t y = 0; y < Pair::kPatternSide; ++y) {
    for (int64_t x = 0; x < Pair::kPatternSide; ++x) {
      frame[(corner.y + y) * Pair::kSide + corner.x + x] += pair_pattern_bit(pattern, x, y) ? 1.0F : -1.0F;
    }
  }
}

void add_square(const PairCorner& corner, float* frame) {
  for (int64_t y = 0; y < Pair::kSquareSide; ++y) {
    float* row = frame + (corner.y + y) * Pair::kSide + corner.x;
    for (int64_t x = 0; x < Pair::kSquareSide; ++x) row[x] += 1.0F;
  }
}

}  // namespace

void PairShapesOptions::fields(ConfigFields& f) {
  f.field("frames", frames, "frames of a sample: 1 for images, 4 or 8 for clips", {.minimum = 1, .maximum = 8});
  f.when(frames > 1, "data.frames is more than 1", [&] {
    f.choice<PairVariant>("variant", variant,
                          "the patterns are apart in space and time, in space alone, or in time alone",
                          {{"cross", PairVariant::cross}, {"space", PairVariant::space}, {"time", PairVariant::time}});
  });
  f.field("noise", noise, "deviation of the noise; patterns are 1 and -1", {.minimum = 0, .maximum = 100});
}

void PairShapesOptions::check() const {
  if (frames == 1 || frames == 4 || frames == 8) return;
  fail(ExitCode::usage, "config", "data.frames must be 1, 4 or 8", fmt::to_string(frames));
}

std::string PairShapesOptions::text() const {
  static constexpr std::array<const char*, 3> words = {"cross", "space", "time"};
  const std::string kind =
      frames == 1 ? "images" : fmt::format("clips of {} frames, {}", frames, words.at(static_cast<size_t>(variant)));
  return fmt::format("{}, noise {}", kind, noise);
}

bool pair_pattern_bit(int64_t pattern, int64_t x, int64_t y) {
  const int64_t last = Pair::kPatternSide * Pair::kPatternSide - 1;
  return (kPatternBits.at(static_cast<size_t>(pattern)) >> (last - y * Pair::kPatternSide - x) & 1) != 0;
}

PairShapes::PairShapes(const PairShapesOptions& options, uint64_t seed, std::string_view stream)
    : options_(options), seed_(seed), streams_(seed, stream) {
  options.check();
}

CounterRandom PairShapes::of_sample(int64_t sample) const {
  return {seed_, streams_.bits(static_cast<uint64_t>(sample))};
}

PairLayout PairShapes::layout(int64_t sample) const {
  RandomSequence random(of_sample(sample));
  PairLayout layout;
  const bool same = random.below(2) == 1;
  layout.a = layout.b = static_cast<int64_t>(random.below(Pair::kPatterns));
  if (!same) layout.b = (layout.a + 1 + static_cast<int64_t>(random.below(Pair::kPatterns - 1))) % Pair::kPatterns;
  const bool clip = options_.frames > 1;
  layout.p = layout.q = draw_corner(random, Pair::kPatternSide);
  if (!clip || options_.variant != PairVariant::time) {
    while (corner_distance(layout.p, layout.q) < Pair::kDistance) {
      layout.p = draw_corner(random, Pair::kPatternSide);
      layout.q = draw_corner(random, Pair::kPatternSide);
    }
  }
  if (clip && options_.variant != PairVariant::space) {
    for (int64_t i = 0; i < kGapFrames; ++i) layout.squares.push_back(draw_corner(random, Pair::kSquareSide));
  }
  return layout;
}

void PairShapes::draw(const PairLayout& layout, int64_t sample, float* out) const {
  const CounterRandom random = of_sample(sample);
  for (int64_t i = 0; i < options_.numbers(); ++i) {
    out[i] = static_cast<float>(options_.noise * random.normal(kNoisePosition + static_cast<uint64_t>(i)));
  }
  const int64_t frames = options_.frames, shown = (frames - kGapFrames) / 2;  // frames of each pattern, if in turn
  const bool together = frames == 1 || options_.variant == PairVariant::space;
  for (int64_t t = 0; t < frames; ++t, out += Pair::kSide * Pair::kSide) {
    if (together || t < shown) add_pattern(layout.a, layout.p, out);
    if (together || t >= shown + kGapFrames) add_pattern(layout.b, layout.q, out);
    if (!together && t >= shown && t < shown + kGapFrames) {
      add_square(layout.squares[static_cast<size_t>(t - shown)], out);
    }
  }
}

void PairShapes::fill(int64_t first, int64_t count, float* frames, int64_t* labels) const {
  for (int64_t i = 0; i < count; ++i) {
    const PairLayout shown = layout(first + i);
    draw(shown, first + i, frames + i * options_.numbers());
    labels[i] = shown.label();
  }
}

}  // namespace loci
