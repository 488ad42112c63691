// The kernel without torch, so that it runs under sanitizers: every level against plain loops, in buffers without a
// byte to spare.
#include "loci/ops/binary_linear/binary_linear_kernel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "loci/base/cpu_level.h"

// Legend: T vectors a, O vectors b, K signs (inputs) of each.

namespace loci::binary_linear_kernel_test {
namespace {

const BinaryLinearKernel& kernel_of(CpuLevel level) {
  return at_level(level, base::binary_linear_kernel, avx2::binary_linear_kernel, avx512::binary_linear_kernel);
}

int64_t words_for(int64_t signs) {
  return (signs + 63) / 64;
}

struct Signs {
  std::vector<int32_t> sign;   // [rows, K] of +1 and -1
  std::vector<uint64_t> bits;  // [rows, words]

  Signs(int64_t rows, int64_t K, std::mt19937_64& dice) : sign(rows * K), bits(rows * words_for(K)) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < K; ++k) {
        const uint64_t bit = dice() % 2;
        sign[r * K + k] = bit == 1 ? -1 : 1;
        bits[r * words_for(K) + k / 64] |= bit << k % 64;
      }
    }
  }
};

TEST(BinaryLinearKernel, ProductsAreExactAtEveryLevelAndInBothWays) {
  std::mt19937_64 dice(0);
  for (const int64_t K : {0, 1, 5, 63, 64, 65, 127, 129, 511, 512, 513, 784, 2047, 20'000}) {
    for (const int64_t T : {1, 2, 3, 4, 7}) {
      for (const int64_t O : {1, 3, 4, 8, 17}) {
        const Signs a(T, K, dice), b(O, K, dice);
        const int64_t stride = O + 2;
        std::vector<int32_t> expected((T - 1) * stride + O, 99);
        for (int64_t t = 0; t < T; ++t) {
          for (int64_t o = 0; o < O; ++o) {
            int32_t& sum = expected[t * stride + o] = 0;
            for (int64_t k = 0; k < K; ++k) sum += a.sign[t * K + k] * b.sign[o * K + k];
          }
        }
        for (const CpuLevel level : cpu_levels()) {
          const BinaryLinearKernel& kernel = kernel_of(level);
          EXPECT_EQ(kernel.products_by_popcount != nullptr, level == CpuLevel::avx512);
          for (const auto products : {kernel.products, kernel.products_by_popcount}) {
            const bool by_popcount = products == kernel.products_by_popcount;
            if (products == nullptr || (by_popcount && !cpu_has_vpopcntdq())) continue;
            std::vector<int32_t> y(expected.size(), 99);
            products(a.bits.data(), T, b.bits.data(), O, words_for(K), K, y.data(), stride);
            ASSERT_EQ(y, expected) << name_of(level) << " T " << T << " O " << O << " K " << K << " " << by_popcount;
          }
        }
      }
    }
  }
}

// Counts of bytes are the largest where every sign differs.
TEST(BinaryLinearKernel, OppositeVectorsOfAnyLengthHaveTheLeastProduct) {
  for (const int64_t K : {64 * 8 * 31, 64 * 8 * 32, 64 * 1000 + 1}) {
    std::vector<uint64_t> zeros(words_for(K)), ones(words_for(K), ~uint64_t{0});
    if (K % 64 != 0) ones.back() = (uint64_t{1} << K % 64) - 1;
    for (const CpuLevel level : cpu_levels()) {
      int32_t y = 0;
      kernel_of(level).products(zeros.data(), 1, ones.data(), 1, words_for(K), K, &y, 1);
      EXPECT_EQ(y, -K) << name_of(level);
    }
  }
}

TEST(BinaryLinearKernel, PacksTheSignsOfAnyNumber) {
  const float least = std::numeric_limits<float>::denorm_min(), infinite = std::numeric_limits<float>::infinity();
  const std::vector<float> some = {0, -0.0F, 1, -1, least, -least, infinite, -infinite, std::nanf(""), -std::nanf("")};
  std::mt19937_64 dice(1);
  for (const int64_t K : {0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 200}) {
    std::vector<float> x(K);
    std::vector<uint64_t> expected(words_for(K));
    for (int64_t k = 0; k < K; ++k) {
      x[k] = some[dice() % some.size()];
      if (!(x[k] >= 0)) expected[k / 64] |= uint64_t{1} << k % 64;
    }
    for (const CpuLevel level : cpu_levels()) {
      std::vector<uint64_t> bits(expected.size(), ~uint64_t{0});
      kernel_of(level).pack(x.data(), K, bits.data());
      ASSERT_EQ(bits, expected) << name_of(level) << " K " << K;
    }
  }
}

TEST(BinaryLinearKernel, ComparesWithThresholdsOfEitherTurn) {
  constexpr int32_t lowest = std::numeric_limits<int32_t>::min(), highest = std::numeric_limits<int32_t>::max();
  std::mt19937_64 dice(2);
  for (const int64_t O : {0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 200}) {
    std::vector<int32_t> y(O), least(O);
    std::vector<uint64_t> turned(words_for(O), 0), expected(words_for(O));
    for (uint64_t& word : turned) word = dice();  // bits behind the O-th too
    for (int64_t o = 0; o < O; ++o) {
      y[o] = static_cast<int32_t>(dice() % 5) - 2;
      const uint64_t which = dice() % 8;
      least[o] = which == 0 ? lowest : which == 1 ? highest : static_cast<int32_t>(dice() % 5) - 2;
      const bool turn = (turned[o / 64] >> o % 64 & 1) != 0;
      if ((y[o] < least[o]) != turn) expected[o / 64] |= uint64_t{1} << o % 64;
    }
    for (const CpuLevel level : cpu_levels()) {
      std::vector<uint64_t> bits(expected.size(), ~uint64_t{0});
      kernel_of(level).threshold(y.data(), O, least.data(), turned.data(), bits.data());
      ASSERT_EQ(bits, expected) << name_of(level) << " O " << O;
    }
  }
}

}  // namespace
}  // namespace loci::binary_linear_kernel_test
