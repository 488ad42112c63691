// The kernel without torch, so that it runs under sanitizers: every level against plain loops over loci/base/random.h,
// in buffers without a number to spare.
#include "loci/ops/reels/reels_kernel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/base/random.h"

// Legend: K reels, N weights.

namespace loci::reels_kernel_test {
namespace {

constexpr ReelNumbers kNumbers = {0x123456789abcdef0, 0xfedcba9876543210, 0.3F};
const std::vector<int64_t> kCounts = {0, 1, 7, 63, 64, 65, 200};
const std::vector<int64_t> kReels = {1, 2, 3, 4, 5, 8, 9, 256};
// Behind 2^32, so that both halves of the counter count.
const std::vector<int64_t> kFirsts = {0, (int64_t{1} << 32) - 5, (int64_t{1} << 39) + 3};

const ReelsKernel& kernel_of(CpuLevel level) {
  return at_level(level, base::reels_kernel, avx2::reels_kernel, avx512::reels_kernel);
}

float value(int64_t k, int64_t n) {
  const uint64_t position = static_cast<uint64_t>(k / 4) << 40 | static_cast<uint64_t>(n);
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const auto words = philox({low(position), high(position), low(kNumbers.stream), high(kNumbers.stream)},
                            {low(kNumbers.seed), high(kNumbers.seed)});
  const auto whole = static_cast<int32_t>(words[static_cast<size_t>(k % 4)]) >> 7 | 1;
  return static_cast<float>(whole) * (kNumbers.bound * 0x1p-24F);
}

std::vector<float> numbers(int64_t count, uint64_t seed, double spread) {
  const CounterRandom random(seed, "numbers");
  std::vector<float> list(static_cast<size_t>(count));
  for (size_t i = 0; i < list.size(); ++i) list[i] = static_cast<float>(spread * random.normal(i));
  return list;
}

template <class Run>
void for_cases(const Run& run) {
  for (const int64_t K : kReels) {
    for (const int64_t N : kCounts) {
      for (const int64_t first : kFirsts) {
        SCOPED_TRACE(::testing::Message() << "K " << K << " N " << N << " first " << first);
        for (const CpuLevel level : cpu_levels()) {
          SCOPED_TRACE(name_of(level));
          run(kernel_of(level), K, N, first);
        }
      }
    }
  }
}

TEST(ReelsKernel, ValuesAreThoseOfTheCounter) {
  for_cases([](const ReelsKernel& kernel, int64_t K, int64_t N, int64_t first) {
    const std::vector<float> grad = numbers(N, 1, 1);
    std::vector<uint8_t> choice(N);
    for (int64_t n = 0; n < N; ++n) choice[n] = static_cast<uint8_t>(n * 7 % K);
    std::vector<float> plain(K * N), scaled(K * N), chosen(K * N), weight(N);
    kernel.values(kNumbers, nullptr, nullptr, K, N, first, N, plain.data());
    kernel.values(kNumbers, grad.data(), nullptr, K, N, first, N, scaled.data());
    kernel.values(kNumbers, grad.data(), choice.data(), K, N, first, N, chosen.data());
    kernel.gather(kNumbers, choice.data(), first, N, weight.data());
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t n = 0; n < N; ++n) {
        const float expected = value(k, first + n);
        ASSERT_EQ(plain[k * N + n], expected) << k << " " << n;
        ASSERT_EQ(scaled[k * N + n], grad[n] * expected);
        ASSERT_EQ(chosen[k * N + n], choice[n] == k ? grad[n] * expected : 0);
        if (choice[n] == k) {
          ASSERT_EQ(weight[n], expected);
        }
      }
    }
  });
}

TEST(ReelsKernel, TheFirstOfTheGreatestScoresIsChosenAndNeverANaN) {
  for_cases([](const ReelsKernel& kernel, int64_t K, int64_t N, int64_t) {
    std::vector<float> scores = numbers(K * N, 2, 1);
    for (float& score : scores) score = std::round(score);  // many equal ones
    for (size_t i = 0; i < scores.size(); i += 5) scores[i] = std::numeric_limits<float>::quiet_NaN();
    std::vector<uint8_t> choice(N, 0xff);
    kernel.choose(scores.data(), K, N, N, choice.data());
    for (int64_t n = 0; n < N; ++n) {
      int64_t best = 0;
      for (int64_t k = 0; k < K; ++k) {
        const float score = scores[k * N + n], other = scores[best * N + n];
        if (score > other || (std::isnan(other) && !std::isnan(score))) best = k;
      }
      ASSERT_EQ(choice[n], best) << n;
    }
  });
}

TEST(ReelsKernel, DrawsFollowTheirUniformNumber) {
  for_cases([](const ReelsKernel& kernel, int64_t K, int64_t N, int64_t first) {
    const std::vector<float> scores = numbers(K * N, 3, 3);
    std::vector<uint8_t> choice(N, 0xff);
    kernel.draw(scores.data(), K, N, 5, 9, first, N, choice.data());
    for (int64_t n = 0; n < N; ++n) {
      double best = -1e9, all = 0, sum = 0;
      for (int64_t k = 0; k < K; ++k) best = std::max(best, static_cast<double>(scores[k * N + n]));
      const auto share = [&](int64_t k) { return std::exp(static_cast<double>(scores[k * N + n]) - best); };
      for (int64_t k = 0; k < K; ++k) all += share(k);
      const double limit = CounterRandom(5, 9).uniform(uint64_t{1} << 63 | static_cast<uint64_t>(first + n)) * all;
      int64_t expected = 0;
      for (int64_t k = 0; k + 1 < K; ++k) {
        sum += share(k);
        if (sum <= limit) ++expected;
      }
      ASSERT_EQ(choice[n], expected) << n;
    }
  });
}

TEST(ReelsKernel, StepsAreThoseOfMomentum) {
  for_cases([](const ReelsKernel& kernel, int64_t K, int64_t N, int64_t first) {
    const std::vector<float> grad = numbers(N, 4, 1), start = numbers(K * N, 5, 1), speed = numbers(K * N, 6, 1);
    std::vector<uint8_t> choice(N);
    for (int64_t n = 0; n < N; ++n) choice[n] = static_cast<uint8_t>(n * 3 % K);
    for (const bool moving : {true, false}) {
      for (const bool nesterov : {true, false}) {
        for (const bool chosen_only : {true, false}) {
          const ReelStepNumbers step = {0.2F, moving ? 0.9F : 0, 1e-3F, 0.5F, nesterov && moving};
          std::vector<float> scores = start, velocity = speed;
          kernel.step(kNumbers, step, grad.data(), chosen_only ? choice.data() : nullptr, K, N, first, N, scores.data(),
                      moving ? velocity.data() : nullptr);
          for (int64_t k = 0; k < K; ++k) {
            for (int64_t n = 0; n < N; ++n) {
              const float of_score = chosen_only && choice[n] != k ? 0 : grad[n] * step.inverse * value(k, first + n);
              float g = of_score + step.decay * start[k * N + n];
              const float v = step.momentum * speed[k * N + n] + g;
              if (moving) g = step.nesterov ? g + step.momentum * v : v;
              ASSERT_EQ(scores[k * N + n], start[k * N + n] - step.rate * g) << k << " " << n;
              if (moving) {
                ASSERT_EQ(velocity[k * N + n], v);
              }
            }
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace loci::reels_kernel_test
