// The kernel without torch, so that it runs under sanitizers: every level against plain loops, in buffers without a
// byte to spare.
#include "loci/ops/few_linear/few_linear_kernel.h"

#include <gtest/gtest.h>

#include <bit>
#include <random>
#include <vector>

#include "loci/base/cpu_level.h"

// Legend: T vectors, d inputs, O outputs of each.

namespace loci::few_linear_kernel_test {
namespace {

// Whole numbers: sums are exact in any order, in bfloat16 too.
TEST(FewLinearKernel, EqualsPlainProductsAtEveryLevel) {
  std::mt19937_64 dice(0);
  const auto whole = [&](int64_t size) {
    std::vector<float> values(size);
    for (float& value : values) value = static_cast<float>(static_cast<int64_t>(dice() % 7) - 3);
    return values;
  };
  const auto low = [](const std::vector<float>& values) {
    std::vector<uint16_t> bits;
    for (const float value : values) bits.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
    return bits;
  };
  for (const int64_t d : {0, 1, 7, 8, 15, 16, 17, 31, 33, 64, 600}) {
    for (const int64_t O : {0, 1, 3, 4, 5, 33}) {
      for (int64_t T = 1; T <= FewLinearKernel::most_vectors; ++T) {
        const int64_t x_stride = d + 3, y_stride = O + 2;
        const std::vector<float> x = whole((T - 1) * x_stride + d), weight = whole(O * d), bias = whole(O);
        std::vector<float> expected((T - 1) * y_stride + O, 99);
        for (int64_t t = 0; t < T; ++t) {
          for (int64_t o = 0; o < O; ++o) {
            float& sum = expected[t * y_stride + o] = bias[o];
            for (int64_t c = 0; c < d; ++c) sum += x[t * x_stride + c] * weight[o * d + c];
          }
        }
        const std::vector<uint16_t> low_x = low(x), low_weight = low(weight);
        for (const CpuLevel level : cpu_levels()) {
          SCOPED_TRACE(::testing::Message() << name_of(level) << " T " << T << " d " << d << " O " << O);
          const FewLinearKernel& kernel =
              at_level(level, base::few_linear_kernel, avx2::few_linear_kernel, avx512::few_linear_kernel);
          std::vector<float> y(expected.size(), 99), of_low = y;
          kernel.float32(x.data(), x_stride, T, weight.data(), bias.data(), O, d, y.data(), y_stride);
          kernel.bfloat16(low_x.data(), x_stride, T, low_weight.data(), bias.data(), O, d, of_low.data(), y_stride);
          ASSERT_EQ(y, expected);
          ASSERT_EQ(of_low, expected);
        }
      }
    }
  }
}

}  // namespace
}  // namespace loci::few_linear_kernel_test
