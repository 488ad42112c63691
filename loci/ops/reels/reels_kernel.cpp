#include "loci/ops/reels/reels_kernel.h"

#include <math.h>

#include "loci/ops/philox_kernel.h"

// Legend: K reels.

namespace loci::LOCI_LEVEL {
namespace {

constexpr int64_t kTogether = kPhiloxBlocks;  // weights
constexpr int64_t kWords = 4;                 // reels of a block

int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

float value_of(uint32_t word, float unit) {
  return static_cast<float>(static_cast<int32_t>(word) >> 7 | 1) * unit;
}

// bound / 2^24.
float unit_of(const ReelNumbers& numbers) {
  return numbers.bound * 0x1p-24F;
}

// The blocks of the weights from `at` on, for the reels 4 * group .. 4 * group + 3.
void fill(const ReelNumbers& numbers, int64_t group, int64_t at, PhiloxBlocks& blocks) {
  for (int64_t i = 0; i < kTogether; ++i) {
    const uint64_t position = static_cast<uint64_t>(group) << 40 | static_cast<uint64_t>(at + i);
    blocks.low[i] = static_cast<uint32_t>(position);
    blocks.high[i] = static_cast<uint32_t>(position >> 32);
  }
  blocks.fill(numbers.seed, numbers.stream);
}

// Calls run(k, n, weights, words) for every reel k and pieces of weights from n on.
template <typename Run>
void over_values(const ReelNumbers& numbers, int64_t reels, int64_t first, int64_t count, const Run& run) {
  PhiloxBlocks blocks;
  for (int64_t n = 0; n < count; n += kTogether) {
    const int64_t weights = least(kTogether, count - n);
    for (int64_t group = 0; kWords * group < reels; ++group) {
      fill(numbers, group, first + n, blocks);
      for (int64_t word = 0; word < least(kWords, reels - kWords * group); ++word) {
        run(kWords * group + word, n, weights, blocks.words[word]);
      }
    }
  }
}

void choose(const float* __restrict scores, int64_t reels, int64_t stride, int64_t count, uint8_t* __restrict choice) {
  for (int64_t n = 0; n < count; n += kTogether) {
    const int64_t weights = least(kTogether, count - n);
    float best[kTogether];
    uint32_t which[kTogether];
    for (int64_t i = 0; i < kTogether; ++i) best[i] = -HUGE_VALF, which[i] = 0;
    for (int64_t k = 0; k < reels; ++k) {
      const float* __restrict plane = scores + k * stride + n;
      const uint32_t number = static_cast<uint32_t>(k);
      for (int64_t i = 0; i < weights; ++i) {
        const bool better = plane[i] > best[i];
        best[i] = better ? plane[i] : best[i];
        which[i] = better ? number : which[i];
      }
    }
    for (int64_t i = 0; i < weights; ++i) choice[n + i] = static_cast<uint8_t>(which[i]);
  }
}

// exp(x) for x <= 0 within a unit in the last place or two: 2^n * a Taylor series of the rest. Below -700 as -700.
double exponential(double x) {
  constexpr double to_whole = 0x1.8p52;
  const double least_x = x > -700 ? x : -700;
  const double shifted = least_x * 1.4426950408889634 + to_whole, whole = shifted - to_whole;
  const double rest = least_x - whole * 0x1.62e42fee00000p-1 - whole * 0x1.a39ef35793c76p-33;
  double sum = 1.0 / 6227020800.0;
  sum = sum * rest + 1.0 / 479001600.0;
  sum = sum * rest + 1.0 / 39916800.0;
  sum = sum * rest + 1.0 / 3628800.0;
  sum = sum * rest + 1.0 / 362880.0;
  sum = sum * rest + 1.0 / 40320.0;
  sum = sum * rest + 1.0 / 5040.0;
  sum = sum * rest + 1.0 / 720.0;
  sum = sum * rest + 1.0 / 120.0;
  sum = sum * rest + 1.0 / 24.0;
  sum = sum * rest + 1.0 / 6.0;
  sum = sum * rest + 0.5;
  sum = sum * rest + 1.0;
  sum = sum * rest + 1.0;
  uint64_t bits;
  __builtin_memcpy(&bits, &shifted, 8);
  bits = (bits + 1023) << 52;
  double power;
  __builtin_memcpy(&power, &bits, 8);
  return sum * power;
}

// exp(score - best), 0 of a NaN.
double share_of(float score, double best) {
  const double share = exponential(static_cast<double>(score) - best);
  return score == score ? share : 0;
}

// Draws for the weights of one piece: u * sum, and then how many cumulated shares are at most that.
void draw_piece(const float* __restrict scores, int64_t reels, int64_t stride, const PhiloxBlocks& blocks,
                int64_t weights, uint8_t* __restrict choice) {
  double best[kTogether], sum[kTogether], limit[kTogether];
  int64_t which[kTogether];
  for (int64_t i = 0; i < kTogether; ++i) best[i] = -HUGE_VAL, sum[i] = 0, which[i] = 0;
  for (int64_t k = 0; k < reels; ++k) {
    for (int64_t i = 0; i < weights; ++i) {
      const double score = static_cast<double>(scores[k * stride + i]);
      best[i] = score > best[i] ? score : best[i];
    }
  }
  for (int64_t k = 0; k < reels; ++k) {
    for (int64_t i = 0; i < weights; ++i) sum[i] += share_of(scores[k * stride + i], best[i]);
  }
  for (int64_t i = 0; i < weights; ++i) {
    const uint64_t bits = uint64_t{blocks.words[1][i]} << 32 | blocks.words[0][i];
    limit[i] = static_cast<double>(static_cast<int64_t>(bits >> 11)) * 0x1p-53 * sum[i];
    sum[i] = 0;
  }
  for (int64_t k = 0; k + 1 < reels; ++k) {
    for (int64_t i = 0; i < weights; ++i) {
      sum[i] += share_of(scores[k * stride + i], best[i]);
      which[i] += sum[i] <= limit[i] ? 1 : 0;
    }
  }
  for (int64_t i = 0; i < weights; ++i) choice[i] = static_cast<uint8_t>(which[i]);
}

void draw(const float* scores, int64_t reels, int64_t stride, uint64_t seed, uint64_t stream, int64_t first,
          int64_t count, uint8_t* choice) {
  PhiloxBlocks blocks;
  for (int64_t n = 0; n < count; n += kTogether) {
    for (int64_t i = 0; i < kTogether; ++i) {
      const uint64_t position = uint64_t{1} << 63 | static_cast<uint64_t>(first + n + i);
      blocks.low[i] = static_cast<uint32_t>(position);
      blocks.high[i] = static_cast<uint32_t>(position >> 32);
    }
    blocks.fill(seed, stream);
    draw_piece(scores + n, reels, stride, blocks, least(kTogether, count - n), choice + n);
  }
}

void gather(const ReelNumbers& numbers, const uint8_t* __restrict choice, int64_t first, int64_t count,
            float* __restrict weight) {
  const float unit = unit_of(numbers);
  PhiloxBlocks blocks;
  for (int64_t n = 0; n < count; n += kTogether) {
    const int64_t weights = least(kTogether, count - n);
    uint32_t chosen[kTogether] = {};
    for (int64_t i = 0; i < weights; ++i) chosen[i] = choice[n + i];
    for (int64_t i = 0; i < kTogether; ++i) {
      const uint64_t position = static_cast<uint64_t>(first + n + i);
      blocks.low[i] = static_cast<uint32_t>(position);
      blocks.high[i] = static_cast<uint32_t>(position >> 32) | chosen[i] / 4 << 8;
    }
    blocks.fill(numbers.seed, numbers.stream);
    for (int64_t i = 0; i < weights; ++i) {
      const uint32_t word = chosen[i] % 4;
      const uint32_t low = word % 2 == 0 ? blocks.words[0][i] : blocks.words[1][i];
      const uint32_t high = word % 2 == 0 ? blocks.words[2][i] : blocks.words[3][i];
      weight[n + i] = value_of(word < 2 ? low : high, unit);
    }
  }
}

void values(const ReelNumbers& numbers, const float* __restrict grad, const uint8_t* __restrict choice, int64_t reels,
            int64_t stride, int64_t first, int64_t count, float* __restrict values) {
  const float unit = unit_of(numbers);
  over_values(numbers, reels, first, count, [=](int64_t k, int64_t n, int64_t weights, const uint32_t* words) {
    float* __restrict to = values + k * stride + n;
    if (!grad) {
      for (int64_t i = 0; i < weights; ++i) to[i] = value_of(words[i], unit);
      return;
    }
    const float* __restrict g = grad + n;
    for (int64_t i = 0; i < weights; ++i) to[i] = g[i] * value_of(words[i], unit);
    if (!choice) return;
    const uint8_t* __restrict chosen = choice + n;
    for (int64_t i = 0; i < weights; ++i) to[i] = chosen[i] == k ? to[i] : 0;
  });
}

void step(const ReelNumbers& numbers, const ReelStepNumbers& step, const float* __restrict grad,
          const uint8_t* __restrict choice, int64_t reels, int64_t stride, int64_t first, int64_t count,
          float* __restrict scores, float* __restrict velocity) {
  const float unit = unit_of(numbers), rate = step.rate, momentum = step.momentum, decay = step.decay;
  over_values(numbers, reels, first, count, [&](int64_t k, int64_t n, int64_t weights, const uint32_t* words) {
    float* __restrict s = scores + k * stride + n;
    const float* __restrict from = grad + n;
    float g[kTogether];
    for (int64_t i = 0; i < weights; ++i) g[i] = from[i] * step.inverse * value_of(words[i], unit);
    if (choice) {
      const uint8_t* __restrict chosen = choice + n;
      for (int64_t i = 0; i < weights; ++i) g[i] = chosen[i] == k ? g[i] : 0;
    }
    for (int64_t i = 0; i < weights; ++i) g[i] = g[i] + decay * s[i];
    if (velocity) {
      float* __restrict v = velocity + k * stride + n;
      for (int64_t i = 0; i < weights; ++i) {
        v[i] = momentum * v[i] + g[i];
        g[i] = step.nesterov ? g[i] + momentum * v[i] : v[i];
      }
    }
    for (int64_t i = 0; i < weights; ++i) s[i] = s[i] - rate * g[i];
  });
}

}  // namespace

const ReelsKernel reels_kernel = {choose, draw, gather, values, step};

}  // namespace loci::LOCI_LEVEL
