#include "loci/ops/binary_linear/binary_linear.h"

#include <gmock/gmock.h>

#include "loci/ops/binary_linear/binary_linear_cpu.h"
#include "loci/ops/binary_linear/binary_linear_definition.h"
#include "tests/op_harness.h"

// Legend: T vectors, K inputs, O outputs.

namespace loci::binary_linear_test {
namespace {

using harness::strided;
using ::testing::HasSubstr;
using torch::Tensor;

const std::vector<int64_t> kInputs = {0, 1, 5, 63, 64, 65, 127, 200, 513, 1031};

Tensor bits_of(int64_t rows, int64_t K) {
  return sign_pack_definition(torch::randn({rows, K}));
}

struct Layer {
  Tensor a, b, threshold, turned;
};

Layer layer_of(int64_t T, int64_t K, int64_t O) {
  return {bits_of(T, K), bits_of(O, K), torch::randint(-K - 1, K + 2, {O}, torch::kInt),
          sign_pack_definition(torch::randn({O}))};
}

TEST(BinaryLinear, IsExactAtEveryLevel) {
  torch::manual_seed(0);
  for (const int64_t K : kInputs) {
    for (const int64_t T : {0, 1, 3, 4, 65}) {
      for (const int64_t O : {0, 1, 5, 64, 70}) {
        SCOPED_TRACE(::testing::Message() << "K " << K << " T " << T << " O " << O);
        const Layer in = layer_of(T, K, O);
        const Tensor y = binary_linear_definition(in.a, in.b, K);
        ASSERT_TRUE(torch::equal(
            y, sign_unpack(in.a, K, torch::kDouble).matmul(sign_unpack(in.b, K, torch::kDouble).t()).to(torch::kInt)));
        const Tensor bits = binary_threshold_definition(y, in.threshold, in.turned);
        for (const CpuLevel level : cpu_levels()) {
          SCOPED_TRACE(name_of(level));
          ASSERT_TRUE(torch::equal(binary_linear_cpu(strided(in.a), strided(in.b), K, level), y));
          ASSERT_TRUE(
              torch::equal(binary_threshold_cpu(strided(y), strided(in.threshold), strided(in.turned), level), bits));
          ASSERT_TRUE(torch::equal(
              binary_layer_cpu(strided(in.a), strided(in.b), K, strided(in.threshold), strided(in.turned), level),
              bits));
        }
      }
    }
  }
}

TEST(BinaryLinear, SignsArePackedAtEveryLevelAndUnpacked) {
  torch::manual_seed(1);
  for (const int64_t K : kInputs) {
    const Tensor x = torch::randn({2, 3, K}) * torch::randint(0, 2, {2, 3, K});
    const Tensor bits = sign_pack_definition(x);
    ASSERT_EQ(bits.sizes(), (std::vector<int64_t>{2, 3, (K + 63) / 64}));
    ASSERT_TRUE(torch::equal(sign_unpack(bits, K), torch::where(x.ge(0), 1.0F, -1.0F).to(torch::kFloat)));
    for (const CpuLevel level : cpu_levels()) {
      ASSERT_TRUE(torch::equal(sign_pack_cpu(strided(x), level), bits)) << name_of(level) << " " << K;
    }
    ASSERT_TRUE(torch::equal(sign_pack(x.to(torch::kDouble)), bits));
    ASSERT_TRUE(torch::equal(sign_pack(x.to(torch::kBFloat16)), bits));
  }
  // Below the least float32, where a conversion would lose the sign.
  EXPECT_EQ(sign_pack(torch::tensor({-1e-300, 1e-300, -0.0, std::nan("")}, torch::kDouble)).item<int64_t>(), 0b1001);
  EXPECT_EQ(sign_pack(torch::tensor({-1e-45F, 1e-45F, -0.0F, std::nanf("")})).item<int64_t>(), 0b1001);
}

// The definition in words: the sign is +1 from the threshold on, or below it.
TEST(BinaryLinear, ThresholdsOfTheEndsAreConstants) {
  constexpr int32_t lowest = std::numeric_limits<int32_t>::min();
  const Tensor y = torch::tensor({{-3, 0, 5, -3}, {7, 0, -7, 7}}, torch::kInt);
  const Tensor bits =
      binary_threshold(y, torch::tensor({0, 0, lowest, lowest}, torch::kInt), torch::tensor({0b1010}, torch::kLong));
  const Tensor expected = torch::tensor({{-1, -1, 1, -1}, {1, -1, 1, -1}}, torch::kFloat);
  EXPECT_TRUE(torch::equal(sign_unpack(bits, 4), expected)) << sign_unpack(bits, 4);
}

TEST(BinaryLinear, HasTheSameResultsForAnyThreadCount) {
  torch::manual_seed(2);
  const Layer in = layer_of(200, 700, 300);
  const Tensor x = torch::randn({200, 700});
  harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> {
    return {sign_pack(x), binary_linear(in.a, in.b, 700), binary_layer(in.a, in.b, 700, in.threshold, in.turned),
            binary_threshold(binary_linear(in.a, in.b, 700), in.threshold, in.turned)};
  });
}

TEST(BinaryLinear, AnswersOnEveryDevice) {
  torch::manual_seed(3);
  const Layer in = layer_of(3, 130, 70);
  const auto run = [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
    return {sign_pack(x[4]), binary_linear(x[0], x[1], 130), binary_layer(x[0], x[1], 130, x[2], x[3]),
            sign_unpack(x[0], 130)};
  };
  harness::expect_the_same_on_every_device(run, {in.a, in.b, in.threshold, in.turned, torch::randn({2, 65})}, 0);
}

TEST(BinaryLinear, HasNoGradient) {
  const Tensor x = torch::randn({2, 5}).requires_grad_();
  EXPECT_FALSE(sign_pack(x).requires_grad());
}

TEST(BinaryLinear, RefusesBadInputInThreeParts) {
  const Layer in = layer_of(2, 70, 5);
  const auto linear = [](const Tensor& a, const Tensor& b, int64_t K) {
    return harness::message_of([&] { binary_linear(a, b, K); });
  };
  EXPECT_THAT(linear(in.a, in.b, 64), HasSubstr("binary_linear: a must be [.., 1] of Long for 64 inputs, got [2, 2]"));
  EXPECT_THAT(linear(in.a, in.b[0], 70), HasSubstr("binary_linear: b must be [.., 2] of Long for 70 inputs, got [2]"));
  EXPECT_THAT(linear(in.a.to(torch::kInt), in.b, 70), HasSubstr("got [2, 2] of Int"));
  EXPECT_THAT(linear(in.a, in.b, -1), HasSubstr("binary_linear: inputs must be 0 to 2^31 - 1, got -1"));
  EXPECT_THAT(linear(in.a, in.b.to(torch::kMeta), 70), HasSubstr("binary_linear: b must be on cpu like a, got meta"));
  const auto layer = [&](const Tensor& threshold, const Tensor& turned) {
    return harness::message_of([&] { binary_layer(in.a, in.b, 70, threshold, turned); });
  };
  EXPECT_THAT(layer(in.threshold.narrow(0, 0, 4), in.turned),
              HasSubstr("binary_threshold: threshold must be [5] of Int on cpu, got [4] of Int on cpu"));
  EXPECT_THAT(layer(in.threshold, in.turned.to(torch::kInt)),
              HasSubstr("binary_threshold: turned must be [1] of Long on cpu, got [1] of Int on cpu"));
  EXPECT_THAT(harness::message_of([&] { binary_threshold(in.a, in.threshold, in.turned); }),
              HasSubstr("binary_threshold: y must be [T, O] of Int, got [2, 2] of Long"));
  EXPECT_THAT(harness::message_of([&] { sign_pack(in.a); }),
              HasSubstr("sign_pack: x must be [.., K] of a floating type, got [2, 2] of Long"));
  EXPECT_THAT(harness::message_of([&] { sign_unpack(in.a, 200); }), HasSubstr("sign_unpack: bits must be"));
}

}  // namespace
}  // namespace loci::binary_linear_test
