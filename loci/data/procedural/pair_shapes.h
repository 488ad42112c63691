// Are two distant patterns the same? Images (T = 1) and clips whose answer no small window holds: data for layers that
// relate distant positions (the question of Wang, Girshick, Gupta and He 2018, "Non-local Neural Networks"; the sets
// are ours).
//
// Legend: T frames of a sample, a and b its two patterns.
//
//   a frame       32 x 32 numbers N(0, noise^2); a pattern or a square adds to them
//   a pattern     one of six of 5 x 5 bits: a set bit adds 1, another one subtracts 1
//   label         a fair coin. a is uniform; b = a for label 1, else uniform over the other five, so that both classes
//                 have the patterns equally often
//   corners       p of a and q of b, uniform in [0, 27]^2, drawn anew until max(|dx|, |dy|) >= 17
//   T = 1         both patterns in the one frame
//   T = 4, 8      cross   a at p in the first (T - 2) / 2 frames, b at q in as many last ones
//                 time    the same with q = p
//                 space   both patterns in all frames
//                 The two frames between a and b (cross, time) have a square of 9 x 9 ones each, anywhere.
//
// A sample is a pure function of (seed, stream, its number).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/random.h"

namespace loci {

enum class PairVariant { cross, space, time };

// [data]
struct PairShapesOptions {
  static constexpr int64_t kSide = 32;  // of a frame
  static constexpr int64_t kPatterns = 6;
  static constexpr int64_t kPatternSide = 5;
  static constexpr int64_t kDistance = 17;  // of the corners, at least
  static constexpr int64_t kSquareSide = 9;
  int64_t frames = 1;                        // T
  PairVariant variant = PairVariant::cross;  // T > 1
  double noise = 0.1;                        // deviation
  void fields(ConfigFields& f);

  void check() const;                                         // throws Error (usage)
  int64_t numbers() const { return frames * kSide * kSide; }  // of a sample
  // "images", or "clips of 4 frames, cross"; with the noise.
  std::string text() const;
};

// Of the bits 0 .. 4 from the left and from above.
bool pair_pattern_bit(int64_t pattern, int64_t x, int64_t y);

struct PairCorner {
  int64_t x = 0;
  int64_t y = 0;
  bool operator==(const PairCorner&) const = default;
};

// What a sample shows.
struct PairLayout {
  int64_t a = 0, b = 0;
  PairCorner p, q;
  std::vector<PairCorner> squares;  // of the frames between a and b
  int64_t label() const { return a == b ? 1 : 0; }
};

class PairShapes {
 public:
  // Throws Error (usage) for options that are none.
  PairShapes(const PairShapesOptions& options, uint64_t seed, std::string_view stream);

  PairLayout layout(int64_t sample) const;
  // `layout` on the noise of the sample: out [T, 32, 32].
  void draw(const PairLayout& layout, int64_t sample, float* out) const;
  // Samples first .. first + count - 1: frames [count, T, 32, 32], labels [count].
  void fill(int64_t first, int64_t count, float* frames, int64_t* labels) const;

 private:
  CounterRandom of_sample(int64_t sample) const;

  PairShapesOptions options_;
  uint64_t seed_;
  CounterRandom streams_;  // of samples
};

}  // namespace loci
