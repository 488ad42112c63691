#include "loci/nn/memory/ngram_rows.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <functional>
#include <set>

#include "loci/base/check.h"
#include "tests/temporary_folder.h"

namespace loci::ngram_rows_test {
namespace {

using at::Tensor;

std::vector<int64_t> list(const Tensor& x) {
  return {x.const_data_ptr<int64_t>(), x.const_data_ptr<int64_t>() + x.numel()};
}

bool has_no_divisor(int64_t number) {
  for (int64_t factor = 2; factor < number; ++factor) {
    if (number % factor == 0) return false;
  }
  return number > 1;
}

TEST(NgramRows, OrderOneHoldsTheVocabularyAndTheOthersShareTheRest) {
  const NgramRows rows = ngram_rows({3, 1, 2}, 2, 4000, 500, 7);
  EXPECT_EQ(rows.orders, (std::vector<int64_t>{1, 2, 2, 3, 3}));
  // 503 is the first prime above 500. A quarter of 3,497 rows is 874; the largest primes below it are these.
  EXPECT_EQ(list(rows.modulus), (std::vector<int64_t>{503, 863, 859, 857, 853}));
  EXPECT_EQ(list(rows.offset), (std::vector<int64_t>{0, 503, 1366, 2225, 3082}));
  EXPECT_EQ(rows.pad, 500);
  EXPECT_EQ(rows.longest(), 3);
}

TEST(NgramRows, WithoutRoomForTheVocabularyOrderOneIsHashedAsTheOthers) {
  EXPECT_EQ(list(ngram_rows({1, 2}, 1, 1000, 600, 7).modulus), (std::vector<int64_t>{499, 491}));
  EXPECT_EQ(ngram_rows({1, 2}, 2, 1000, 600, 7).orders, (std::vector<int64_t>{1, 1, 2, 2}));
  // Alone it may take all rows.
  EXPECT_EQ(list(ngram_rows({1}, 3, 1000, 600, 7).modulus), (std::vector<int64_t>{601}));
  EXPECT_EQ(list(ngram_rows({1}, 2, 600, 600, 7).modulus), (std::vector<int64_t>{293, 283}));
}

TEST(NgramRows, ModuliAreDifferentPrimesThatFitTheRows) {
  for (const int64_t rows : {60, 100, 16384}) {
    for (const int64_t heads : {1, 2}) {
      const NgramRows r = ngram_rows({1, 2, 4}, heads, rows, 5, 3);
      std::set<int64_t> different;
      for (const int64_t p : list(r.modulus)) {
        EXPECT_TRUE(has_no_divisor(p)) << p;
        EXPECT_TRUE(different.insert(p).second) << p;
      }
      EXPECT_LE(r.offset[-1].item<int64_t>() + r.modulus[-1].item<int64_t>(), rows);
      EXPECT_EQ(std::ssize(r.orders), ngram_columns({1, 2, 4}, heads, rows, 5));
    }
  }
}

TEST(NgramRows, MultipliersAreOddDoNotWrapAndShareNoFactorWithAModulus) {
  for (const int64_t vocabulary : {1, 2, 23, 4096, 1 << 20}) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const NgramRows r = ngram_rows({1, 2, 5}, 1, 100, vocabulary, seed);
      ASSERT_EQ(r.multipliers.numel(), 5);
      for (const int64_t m : list(r.multipliers)) {
        EXPECT_EQ(m % 2, 1);
        EXPECT_LE(m, std::numeric_limits<int64_t>::max() / vocabulary);
        for (const int64_t p : list(r.modulus)) EXPECT_NE(m % p, 0) << p;
      }
    }
  }
  EXPECT_EQ(list(ngram_rows({2}, 1, 100, 9, 4).multipliers), list(ngram_rows({2}, 1, 100, 9, 4).multipliers));
  EXPECT_NE(list(ngram_rows({2}, 1, 100, 9, 4).multipliers), list(ngram_rows({2}, 1, 100, 9, 5).multipliers));
}

TEST(NgramRows, OrderOneGivesEachTokenARowOfItsOwn) {
  for (const int64_t vocabulary : {1, 4, 22, 257, 2048}) {
    for (uint64_t seed = 0; seed < 10; ++seed) {
      const NgramRows r = ngram_rows({1, 2}, 1, 8192, vocabulary, seed);
      const Tensor tokens = at::arange(vocabulary).unsqueeze(0);
      const Tensor rows = r.of(tokens, at::zeros_like(tokens, at::kBool)).select(2, 0);
      EXPECT_EQ(std::get<0>(at::_unique(rows)).numel(), vocabulary);
    }
  }
}

// A hash that used few of its rows would read as collisions of the table.
TEST(NgramRows, RandomNgramsSpreadOverTheRowsAsRandomNumbersDo) {
  torch::manual_seed(0);
  const NgramRows r = ngram_rows({2, 3}, 1, 8000, 1000, 0);
  const Tensor tokens = torch::randint(1000, {1, 4003}, at::kLong);
  const Tensor rows = r.of(tokens, at::zeros_like(tokens, at::kBool));
  for (int64_t k = 0; k < 2; ++k) {
    // n draws of n rows hit 1 - 1/e of them, 0.632, with a standard deviation of 0.005.
    const auto distinct = static_cast<double>(std::get<0>(at::_unique(rows.select(2, k))).numel());
    EXPECT_NEAR(distinct / 4003, 0.632, 0.02);
  }
}

TEST(NgramRows, BadSettingsAreRefused) {
  const auto refused = [](const std::string& part, const std::function<void()>& make) {
    expect_error(ExitCode::usage, part, make);
  };
  refused("orders must name at least one order, got none", [] { ngram_rows({}, 1, 100, 9, 0); });
  refused("orders must be within 1 .. 16, got 0", [] { ngram_rows({0, 2}, 1, 100, 9, 0); });
  refused("orders must be within 1 .. 16, got 17", [] { ngram_rows({2, 17}, 1, 100, 9, 0); });
  refused("orders must name each order once, got 2 twice", [] { ngram_rows({2, 3, 2}, 1, 100, 9, 0); });
  refused("hash_heads must be at least 1, got 0", [] { ngram_rows({2}, 0, 100, 9, 0); });
  refused("vocabulary must be at least 1, got 0", [] { ngram_rows({2}, 1, 100, 0, 0); });
  refused("rows must hold a prime for each of 4 pairs of an order and a head, got 10 rows",
          [] { ngram_rows({2, 3}, 2, 10, 9, 0); });
}

}  // namespace
}  // namespace loci::ngram_rows_test
