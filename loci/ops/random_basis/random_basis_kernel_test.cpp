// The kernel without torch, so that it runs under sanitizers: every level against Philox of base/random and plain
// loops, in buffers without a number to spare.
#include "loci/ops/random_basis/random_basis_kernel.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/base/random.h"

namespace loci::random_basis_kernel_test {
namespace {

const int8_t kLow[16] = {-54, -36, -35, -25, -18, -10, -9, -4, 4, 9, 10, 18, 25, 35, 36, 54};
const int8_t kHigh[16] = {-63, -18, -14, -10, -7, -5, -2, -1, 0, 2, 5, 7, 10, 14, 18, 63};
const RandomBasisStream kStream = {0x12345678, 0x9abcdef0, 7, 0xfffffff1, kLow, kHigh};

const RandomBasisKernel& kernel_of(CpuLevel level) {
  return at_level(level, base::random_basis_kernel, avx2::random_basis_kernel, avx512::random_basis_kernel);
}

// By the words of random_basis.h.
float value_of(uint32_t direction, uint32_t group, uint32_t e) {
  const auto words =
      philox({16 * group + e % 16, direction, kStream.compartment, kStream.step}, {kStream.key0, kStream.key1});
  const uint32_t byte = words.at(e / 64) >> 8 * (e % 64 / 16) & 255;
  return static_cast<float>(kLow[byte % 16] + kHigh[byte / 16]);
}

std::vector<float> numbers(size_t count, std::mt19937_64& dice) {
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& one : x) one = normal(dice);
  return x;
}

TEST(RandomBasisKernel, DotsAreTheSumsOfLanesAtEveryLevel) {
  std::mt19937_64 dice(0);
  for (const int64_t groups : {0, 1, 2, 5}) {
    for (const uint32_t first : {0u, 3u, (1u << 28) - 5}) {
      const std::vector<float> gradient = numbers(256 * groups, dice), start = numbers(64, dice);
      std::vector<float> expected = start;
      for (uint32_t k = 0; k < 256 * groups; ++k) {
        expected[k % 64] += gradient[k] * value_of(5, first + k / 256, k % 256);
      }
      for (const CpuLevel level : cpu_levels()) {
        std::vector<float> sums = start;
        kernel_of(level).dot(kStream, 5, first, groups, gradient.data(), sums.data());
        ASSERT_EQ(sums, expected) << name_of(level) << " " << groups << " " << first;
      }
    }
  }
}

TEST(RandomBasisKernel, SumsOfDirectionsAreInTheirOrderAtEveryLevel) {
  std::mt19937_64 dice(1);
  for (const int64_t directions : {0, 1, 2, 9}) {
    for (const uint32_t first : {0u, 2147483639u}) {
      const std::vector<float> c = numbers(directions, dice);
      std::vector<float> expected(256);
      for (uint32_t i = 0; i < directions; ++i) {
        for (uint32_t e = 0; e < 256; ++e) expected[e] += c[i] * value_of(first + i, 11, e);
      }
      for (const CpuLevel level : cpu_levels()) {
        std::vector<float> total(256, 99);
        kernel_of(level).add(kStream, first, directions, c.data(), 11, total.data());
        ASSERT_EQ(total, expected) << name_of(level) << " " << directions;
      }
    }
  }
}

}  // namespace
}  // namespace loci::random_basis_kernel_test
