#include "loci/ops/random_basis/random_basis.h"

#include <gmock/gmock.h>

#include <cmath>

#include "loci/base/random.h"
#include "loci/ops/random_basis/random_basis_cpu.h"
#include "loci/ops/random_basis/random_basis_definition.h"
#include "tests/op_harness.h"

// Legend: n weights, d directions.

namespace loci::random_basis_test {
namespace {

using harness::same_bits;
using harness::strided;
using ::testing::HasSubstr;
using torch::Tensor;

const BasisKey kKey = {-5, 0xfffffff0, 9, BasisValues::normal};
const BasisKey kSignKey = {1, 2, 3, BasisValues::signs};
const std::vector<int64_t> kWeights = {0, 1, 15, 16, 63, 64, 65, 255, 256, 257, 700, 8192, 8193, 20'000};

TEST(RandomBasis, HasTheBitsOfItsDefinitionAtEveryLevel) {
  torch::manual_seed(0);
  for (const BasisKey& key : {kKey, kSignKey}) {
    for (const int64_t n : kWeights) {
      for (const int64_t d : {0, 1, 3}) {
        SCOPED_TRACE(::testing::Message() << "n " << n << " d " << d);
        const Tensor gradient = torch::randn({n}), theta = torch::randn({n});
        const Tensor c = random_basis_dot_definition(gradient, 4, d, key);
        ASSERT_EQ(c.sizes(), (std::vector<int64_t>{d}));
        Tensor moved = theta.clone();
        random_basis_add_definition(moved, c, -0.3, 4, key);
        for (const CpuLevel level : cpu_levels()) {
          SCOPED_TRACE(name_of(level));
          ASSERT_TRUE(same_bits(random_basis_dot_cpu(strided(gradient), 4, d, key, level), c));
          for (const Tensor& values : {theta.clone(), strided(theta)}) {
            random_basis_add_cpu(values, strided(c), -0.3, 4, key, level);
            ASSERT_TRUE(same_bits(values, moved));
          }
        }
      }
    }
  }
}

// The definition itself: the words of random_basis.h, products with the stored basis in double.
TEST(RandomBasis, IsThatOfItsWords) {
  torch::manual_seed(1);
  constexpr int64_t n = 9000, d = 3;
  for (const BasisKey& key : {kKey, kSignKey}) {
    const Tensor basis = random_basis(n, 2, d, key, torch::kDouble);
    const BasisTable& table = basis_table(key.values);
    const auto seed = static_cast<uint64_t>(key.seed);
    for (const int64_t k : {0, 5, 17, 64, 100, 255, 256, 8999}) {
      const auto words = philox({static_cast<uint32_t>(k / 256 * 16 + k % 16), 3,
                                 static_cast<uint32_t>(key.compartment), static_cast<uint32_t>(key.step)},
                                {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
      const uint32_t byte = words.at(k % 256 / 64) >> 8 * (k % 64 / 16) & 255;
      const double v = table.low.at(byte % 16) + table.high.at(byte / 16);
      EXPECT_DOUBLE_EQ(basis[1][k].item<double>(), v / std::sqrt(n * table.mean_square)) << k;
    }
    const Tensor x = torch::randn({n}, torch::kDouble);
    EXPECT_TRUE(torch::allclose(random_basis_dot(x, 2, d, key), basis.matmul(x), 1e-12, 1e-14));
    const Tensor narrow = x.to(torch::kFloat);
    EXPECT_TRUE(
        torch::allclose(random_basis_dot(narrow, 2, d, key), basis.to(torch::kFloat).matmul(narrow), 1e-4, 1e-5));
    const Tensor c = torch::randn({d}, torch::kDouble), moved = x.clone();
    random_basis_add(moved, c, 0.7, 2, key);
    EXPECT_TRUE(torch::allclose(moved, x + 0.7 * c.matmul(basis), 1e-12, 1e-14));
  }
}

TEST(RandomBasis, DirectionsHaveLengthOneAndTheMomentsOfTheNormal) {
  constexpr int64_t n = 100'000, d = 10;
  for (const BasisKey& key : {kKey, kSignKey}) {
    const Tensor basis = random_basis(n, 0, d, key, torch::kDouble);
    const Tensor products = basis.matmul(basis.t());
    EXPECT_TRUE(torch::allclose(products, torch::eye(d, torch::kDouble), 0, 5 / std::sqrt(n / 2.0))) << products;
  }
  const Tensor x = random_basis(n, 0, d, kKey, torch::kDouble) * std::sqrt(n);
  const double five_sigma = 5 / std::sqrt(n * d);
  const auto moment = [&](int64_t power) { return x.pow(power).mean().item<double>(); };
  EXPECT_NEAR(moment(1), 0, five_sigma);
  EXPECT_NEAR(moment(2), 1, five_sigma * std::sqrt(2));
  EXPECT_NEAR(moment(3), 0, five_sigma * std::sqrt(15));
  EXPECT_NEAR(moment(4), 3, five_sigma * std::sqrt(96));
  EXPECT_NEAR(moment(6), 15, five_sigma * std::sqrt(10395 - 225));
}

// Exactly, over the 256 equally likely values.
TEST(RandomBasis, TheTableHasTheMomentsThatAreSaid) {
  const BasisTable& table = basis_table(BasisValues::normal);
  std::vector<double> z;
  for (const int low : table.low) {
    for (const int high : table.high) z.push_back((low + high) / std::sqrt(table.mean_square));
  }
  std::sort(z.begin(), z.end());
  const auto moment = [&](int power) {
    double sum = 0;
    for (const double one : z) sum += std::pow(one, power);
    return sum / 256;
  };
  EXPECT_NEAR(moment(1), 0, 1e-12);
  EXPECT_NEAR(moment(2), 1, 1e-12);
  EXPECT_NEAR(moment(3), 0, 1e-12);
  EXPECT_NEAR(moment(4), 3, 0.002 * 3);
  EXPECT_NEAR(moment(6), 15, 0.002 * 15);
  EXPECT_NEAR(z.back(), 3.04, 0.005);
  double farthest = 0;
  for (size_t i = 0; i < z.size(); ++i) {
    const double normal = std::erfc(-z[i] / std::sqrt(2)) / 2;
    const auto begin = std::lower_bound(z.begin(), z.end(), z[i]), end = std::upper_bound(z.begin(), z.end(), z[i]);
    farthest = std::max({farthest, std::abs(static_cast<double>(begin - z.begin()) / 256 - normal),
                         std::abs(static_cast<double>(end - z.begin()) / 256 - normal)});
  }
  EXPECT_LT(farthest, 0.0123);
}

TEST(RandomBasis, EveryPartOfTheKeyChangesTheBasis) {
  const BasisKey key = {1, 2, 3};
  const Tensor basis = random_basis(300, 0, 4, key);
  EXPECT_TRUE(torch::equal(random_basis(300, 2, 2, key), basis.narrow(0, 2, 2)));
  EXPECT_TRUE(torch::equal(random_basis(300, 0, 4, key), basis));
  for (const BasisKey& other : {BasisKey{2, 2, 3}, {1 + (int64_t{1} << 32), 2, 3}, {1, 3, 3}, {1, 2, 4}}) {
    const Tensor different = random_basis(300, 0, 4, other);
    EXPECT_LT(basis.eq(different).to(torch::kFloat).mean().item<float>(), 0.05);
  }
}

TEST(RandomBasis, LowPrecisionIsComputedInFloat32) {
  torch::manual_seed(2);
  for (const auto type : {torch::kBFloat16, torch::kHalf}) {
    const Tensor x = torch::randn({20, 30}).to(type), theta = x.clone();
    const Tensor c = random_basis_dot(x, 0, 5, kKey);
    EXPECT_TRUE(same_bits(c, random_basis_dot(x.to(torch::kFloat), 0, 5, kKey)));
    Tensor wide = x.to(torch::kFloat);
    random_basis_add(wide, c, 0.5, 0, kKey);
    random_basis_add(theta, c, 0.5, 0, kKey);
    EXPECT_TRUE(same_bits(theta, wide.to(type)));
  }
}

TEST(RandomBasis, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(3);
  const Tensor gradient = torch::randn({70'001}), theta = torch::randn({70'001});
  harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> {
    const Tensor c = random_basis_dot(gradient, 1, 19, kKey), moved = theta.clone();
    random_basis_add(moved, c, 1.5, 1, kKey);
    return {c, moved};
  });
}

TEST(RandomBasis, AnswersOnEveryDevice) {
  torch::manual_seed(4);
  const auto run = [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
    const Tensor moved = x[0].clone();
    random_basis_add(moved, x[1], 0.1, 0, kKey);
    return {random_basis_dot(x[0], 0, 7, kKey), moved};
  };
  harness::expect_the_same_on_every_device(run, {torch::randn({3, 100}), torch::randn({7})}, 0);
}

// A leaf that requires a gradient is written into, and a graph that saved it refuses to be used.
TEST(RandomBasis, MovesTheVersionOfWhatItWrites) {
  const Tensor theta = torch::randn({10}).requires_grad_();
  const Tensor square = theta.pow(2).sum();
  random_basis_add(theta, torch::ones({2}), 1, 0, kKey);
  EXPECT_THAT(harness::message_of([&] { square.backward(); }), HasSubstr("modified by an inplace operation"));
  EXPECT_FALSE(random_basis_dot(theta.detach(), 0, 2, kKey).requires_grad());
}

TEST(RandomBasis, RefusesBadInputInThreeParts) {
  const Tensor x = torch::randn({5});
  const auto dot = [&](const Tensor& gradient, int64_t first, int64_t d, const BasisKey& key) {
    return harness::message_of([&] { random_basis_dot(gradient, first, d, key); });
  };
  EXPECT_THAT(dot(x.to(torch::kLong), 0, 1, kKey),
              HasSubstr("random_basis_dot: gradient must be of a floating type, got Long"));
  EXPECT_THAT(dot(x, -1, 1, kKey), HasSubstr("first and directions must be within 0 .. 2^31 in all, got -1 and 1"));
  EXPECT_THAT(dot(x, 1, int64_t{1} << 31, kKey), HasSubstr("within 0 .. 2^31 in all"));
  EXPECT_THAT(dot(x, 0, 1, {0, -1, 0}), HasSubstr("step must be within 0 .. 2^32 - 1, got -1"));
  EXPECT_THAT(dot(x, 0, 1, {0, 0, int64_t{1} << 32}), HasSubstr("compartment must be within 0 .. 2^32 - 1"));
  EXPECT_THAT(dot(x, 0, 1, {0, 0, 0, static_cast<BasisValues>(2)}),
              HasSubstr("values must be 0 (normal) or 1 (signs), got 2"));
  const auto add = [&](const Tensor& theta, const Tensor& c) {
    return harness::message_of([&] { random_basis_add(theta, c, 1, 0, kKey); });
  };
  EXPECT_THAT(add(x, torch::ones({1, 2})),
              HasSubstr("coefficients must be [d] of Float for theta of Float, got [1, 2]"));
  EXPECT_THAT(add(x.to(torch::kDouble), torch::ones({2})), HasSubstr("must be [d] of Double for theta of Double"));
  EXPECT_THAT(add(x, torch::ones({2}, torch::kMeta)), HasSubstr("coefficients must be on cpu like theta, got meta"));
  EXPECT_THAT(add(x.to(torch::kInt), torch::ones({2})), HasSubstr("theta must be of a floating type, got Int"));
}

}  // namespace
}  // namespace loci::random_basis_test
