// The kernels of the search without torch, so that they run under sanitizers: every level against plain loops, in
// buffers without a byte to spare.
#include "loci/ops/product_key_search/product_key_search_kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>
#include <random>
#include <string_view>
#include <tuple>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/product_key_select/product_key_select_kernel.h"

// Legend: T tokens, w width of half a query, n, n1, n2 sub-keys, K top_k, A addresses.

namespace loci::product_key_search_kernel_test {
namespace {

struct Kernels {
  const char* name;
  const ProductKeySelectKernel& select;
  const ProductKeySearchKernel& search;
};

std::vector<Kernels> levels() {
  const Kernels kernels[] = {{"base", base::product_key_select_kernel, base::product_key_search_kernel},
                             {"avx2", avx2::product_key_select_kernel, avx2::product_key_search_kernel},
                             {"avx512", avx512::product_key_select_kernel, avx512::product_key_search_kernel}};
  return {kernels, kernels + cpu_levels().size()};
}

// All addresses by (sum in double, which is exact here, descending; address ascending).
std::vector<int64_t> brute_force(const std::vector<float>& one, const std::vector<float>& two, int64_t K, int64_t A) {
  const int64_t n2 = static_cast<int64_t>(two.size());
  std::vector<int64_t> order(A);
  for (int64_t a = 0; a < A; ++a) order[a] = a;
  const auto sum = [&](int64_t a) { return static_cast<double>(one[a / n2]) + static_cast<double>(two[a % n2]); };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return sum(a) > sum(b); });
  order.resize(K);
  return order;
}

// A half's scores: ties, sums that round to the same number, scores that rise, few that are larger by the least step,
// random ones.
std::vector<float> scores_of_kind(int kind, bool first, int64_t n, std::mt19937_64& dice) {
  std::normal_distribution<float> normal;
  const auto least_steps = [](int64_t steps) {
    return std::bit_cast<float>(0x3f800000 + static_cast<uint32_t>(steps));
  };
  std::vector<float> half(n);
  for (int64_t i = 0; i < n; ++i) {
    const float value = normal(dice);
    half[i] = kind == 0   ? std::round(value)
              : kind == 1 ? (first ? std::round(value) * 0x1p24f : std::round(value * 4) * 0.25f)
              : kind == 2 ? least_steps(i / 2)
              : kind == 3 ? least_steps(i + 5 > n)
                          : std::round(value * 0x1p20f) * 0x1p-20f;
  }
  return half;
}

TEST(ProductKeySearchKernel, SelectEqualsBruteForceAtEveryLevel) {
  std::mt19937_64 dice(0);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(dice() % bound); };
  for (int trial = 0; trial < 1500; ++trial) {
    const int64_t most = trial % 7 == 0 ? 700 : 40;
    const int64_t n1 = 1 + below(most), n2 = 1 + below(most);
    const std::vector<float> one = scores_of_kind(trial % 5, true, n1, dice),
                             two = scores_of_kind(trial % 5, false, n2, dice);
    const int64_t A = below(2) ? n1 * n2 : 1 + below(n1 * n2);
    const int64_t K = 1 + below(std::min<int64_t>(A, trial % 11 == 5 ? 1024 : 70));
    const ProductKeySelectShape shape{n1, n2, K, A};
    const std::vector<int64_t> expected = brute_force(one, two, K, A);
    for (const Kernels& level : levels()) {
      const int64_t bytes = level.select.scratch_bytes(shape);
      void* const scratch = ::operator new(bytes, std::align_val_t(64));
      std::vector<float> score(K);
      std::vector<int64_t> index(K);
      level.select.select_float32(shape, one.data(), two.data(), score.data(), index.data(), scratch);
      ::operator delete(scratch, std::align_val_t(64));
      ASSERT_EQ(index, expected) << level.name << " n1 " << n1 << " n2 " << n2 << " K " << K << " A " << A;
      for (int64_t r = 0; r < K; ++r) ASSERT_EQ(score[r], one[index[r] / n2] + two[index[r] % n2]);
    }
  }
}

// Whole numbers, each once: no score of a half is equal to another, and many sums are.
std::vector<float> all_different(int64_t n, std::mt19937_64& dice) {
  std::vector<float> half(n);
  for (int64_t i = 0; i < n; ++i) half[i] = static_cast<float>(i);
  std::shuffle(half.begin(), half.end(), dice);
  return half;
}

// Each lane another kind of scores, so that some are found by networks and some, with ties, one by one.
TEST(ProductKeySearchKernel, SelectLanesEqualsSelectAtEveryLevel) {
  std::mt19937_64 dice(3);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(dice() % bound); };
  for (int trial = 0; trial < 600; ++trial) {
    const int64_t n1 = 1 + below(trial % 7 == 0 ? 700 : 140), n2 = 1 + below(trial % 5 == 0 ? 300 : 140);
    const int64_t A = below(3) != 0 ? n1 * n2 : 1 + below(n1 * n2);
    const bool different = trial % 3 == 0;
    int64_t K = 1 + below(std::min<int64_t>(A, trial % 11 == 5 ? 100 : 32));
    if (different) K = std::min<int64_t>(A, 8 << below(3));  // a whole list: the networks' last place counts
    const ProductKeySelectShape shape{n1, n2, K, A};
    const int64_t stride = 16 + below(3), kinds = 1 + below(9);
    std::vector<float> one(n1 * stride), two(n2 * stride);
    std::vector<std::vector<float>> rows1, rows2;
    for (int64_t t = 0; t < 16; ++t) {
      const int kind = static_cast<int>(4 + below(kinds));  // mostly random scores
      rows1.push_back(different ? all_different(n1, dice) : scores_of_kind(kind > 9 ? 4 : kind % 5, true, n1, dice));
      rows2.push_back(different ? all_different(n2, dice) : scores_of_kind(kind > 9 ? 4 : kind % 5, false, n2, dice));
      if (kind == 10) rows1[t][below(n1)] = NAN;
      if (kind == 11) rows2[t][below(n2)] = -INFINITY;
      if (kind == 12) rows1[t][below(n1)] = INFINITY;
      for (int64_t i = 0; i < n1; ++i) one[i * stride + t] = rows1[t][i];
      for (int64_t i = 0; i < n2; ++i) two[i * stride + t] = rows2[t][i];
    }
    for (const Kernels& level : levels()) {
      const int64_t lanes = level.select.lanes, tokens = 1 + below(lanes), out = K + below(3);
      void* const scratch = ::operator new(level.select.scratch_bytes(shape), std::align_val_t(64));
      std::vector<float> score((tokens - 1) * out + K), expected_score(K);
      std::vector<int64_t> index((tokens - 1) * out + K), expected(K);
      level.select.select_lanes(shape, one.data(), two.data(), stride, tokens, score.data(), index.data(), out,
                                scratch);
      for (int64_t t = 0; t < tokens; ++t) {
        level.select.select_float32(shape, rows1[t].data(), rows2[t].data(), expected_score.data(), expected.data(),
                                    scratch);
        for (int64_t r = 0; r < K; ++r) {
          ASSERT_EQ(index[t * out + r], expected[r])
              << level.name << " n1 " << n1 << " n2 " << n2 << " K " << K << " A " << A << " token " << t << " " << r;
          ASSERT_EQ(std::bit_cast<uint32_t>(score[t * out + r]), std::bit_cast<uint32_t>(expected_score[r]));
        }
      }
      ::operator delete(scratch, std::align_val_t(64));
    }
  }
}

// The row of addresses that is not complete has one sum, a little above the last place's, that rounds to the same.
TEST(ProductKeySearchKernel, SelectLanesSeesWhatTheIncompleteRowLeavesOut) {
  constexpr int64_t n2 = 40;
  for (const int64_t K : {8, 16, 32}) {
    const ProductKeySelectShape shape{2, n2, K, n2 + 1};
    const std::vector<float> one = {0x1p24f, 0x1p24f + 2};
    std::vector<float> two = {-1.5f, 0};
    for (int64_t i = 1; i < n2 - 1; ++i) two.push_back(static_cast<float>(i < K ? 4 * i : -10 * i));
    for (const Kernels& level : levels()) {
      const int64_t lanes = level.select.lanes;
      std::vector<float> columns1, columns2, score(lanes * K);
      for (const float value : one) columns1.insert(columns1.end(), lanes, value);
      for (const float value : two) columns2.insert(columns2.end(), lanes, value);
      std::vector<int64_t> index(lanes * K);
      void* const scratch = ::operator new(level.select.scratch_bytes(shape), std::align_val_t(64));
      level.select.select_lanes(shape, columns1.data(), columns2.data(), lanes, lanes, score.data(), index.data(), K,
                                scratch);
      ::operator delete(scratch, std::align_val_t(64));
      EXPECT_EQ(std::vector<int64_t>(index.begin(), index.begin() + K), brute_force(one, two, K, n2 + 1)) << level.name;
      EXPECT_EQ(index[K - 1], n2);
    }
  }
}

// Of scores that differ all tokens are found by the networks: a wrong one would leave them to the search one by one.
TEST(ProductKeySearchKernel, SelectLanesFindsTokensSideBySideAtEveryLevel) {
  std::mt19937_64 dice(4);
  std::normal_distribution<float> normal;
  for (const int64_t n : {1, 7, 8, 33, 64, 100, 128, 300, 1000}) {
    for (const int64_t K : {1, 5, 8, 11, 16, 20, 32}) {
      for (const int64_t missing : {0, 1}) {
        const ProductKeySelectShape shape{n, n, K, n * n - missing};
        if (K > shape.addresses || shape.addresses < n) continue;
        for (const Kernels& level : levels()) {
          if (n > 128 && std::string_view(level.name) == "avx2") continue;  // faster one by one
          const int64_t lanes = level.select.lanes;
          std::vector<float> one(n * lanes), two(n * lanes), score(lanes * K);
          std::vector<int64_t> index(lanes * K);
          for (std::vector<float>* half : {&one, &two}) {
            for (float& value : *half) value = normal(dice);
          }
          void* const scratch = ::operator new(level.select.scratch_bytes(shape), std::align_val_t(64));
          const auto found = [&] {
            return level.select.select_lanes(shape, one.data(), two.data(), lanes, lanes, score.data(), index.data(), K,
                                             scratch);
          };
          EXPECT_EQ(found(), lanes) << level.name << " n " << n << " K " << K << " missing " << missing;
          std::fill(one.begin(), one.end(), 0.5F);
          EXPECT_EQ(found(), n == 1 ? lanes : 0);
          ::operator delete(scratch, std::align_val_t(64));
        }
      }
    }
  }
}

// Whole numbers: sums are exact in any order.
std::vector<float> whole(int64_t size, std::mt19937_64& dice) {
  std::vector<float> values(size);
  for (float& value : values) value = static_cast<float>(static_cast<int64_t>(dice() % 7) - 3);
  return values;
}

std::vector<uint16_t> bfloat16(const std::vector<float>& values) {
  std::vector<uint16_t> half(values.size());
  for (size_t i = 0; i < values.size(); ++i) half[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(values[i]) >> 16);
  return half;
}

TEST(ProductKeySearchKernel, SubScoresEqualPlainProductsAtEveryLevel) {
  std::mt19937_64 dice(1);
  for (const int64_t w : {1, 2, 7, 16, 24, 33, 64, 100}) {
    for (const int64_t n : {1, 8, 15, 16, 17, 33, 65}) {
      for (const int64_t T : {1, 4, 5, 7, 13, 24, 25, 47, 48}) {
        const int64_t stride = 2 * w;
        const std::vector<float> query = whole((T - 1) * stride + w, dice), keys = whole(n * w, dice);
        const std::vector<uint16_t> low_query = bfloat16(query);
        for (const Kernels& level : levels()) {
          const ProductKeySearchKernel& kernel = level.search;
          constexpr int64_t columns = ProductKeySearchKernel::tokens;
          for (const QueryElement element : {QueryElement::float32, QueryElement::bfloat16}) {
            const bool low = element == QueryElement::bfloat16;
            const void* const q = low ? static_cast<const void*>(low_query.data()) : query.data();
            std::vector<float> score(n * columns), block((columns + 4) * w);
            kernel.scores(q, element, stride, T, keys.data(), n, w, score.data(), block.data());
            for (int64_t t = 0; t < T; ++t) {
              for (int64_t i = 0; i < n; ++i) {
                float expected = 0;
                for (int64_t c = 0; c < w; ++c) expected += query[t * stride + c] * keys[i * w + c];
                ASSERT_EQ(score[i * columns + t], expected) << level.name;
              }
            }
          }
        }
      }
    }
  }
}

TEST(ProductKeySearchKernel, GradientsEqualPlainLoopsAtEveryLevel) {
  std::mt19937_64 dice(2);
  for (const auto& [T, K, n1, n2, w] : std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t>>{
           {1, 1, 1, 1, 1},
           {5, 9, 4, 7, 33},
           {13, 16, 31, 1, 64},
           {8, 40, 7, 7, 130},
           {9, 40, 5, 49, 3},
           {7, 12, 9, 8, 5},  // widths below four vectors of every level, with and without a rest
           {7, 12, 9, 8, 8},
           {7, 12, 9, 8, 16},
           {7, 12, 9, 8, 23},
           {7, 12, 9, 8, 32},
           {7, 12, 9, 8, 48},
           {7, 12, 9, 8, 63}}) {
    const int64_t stride = K + 3, query_stride = 2 * w;
    std::vector<int64_t> index((T - 1) * stride + K);
    for (int64_t& i : index) i = static_cast<int64_t>(dice() % (n1 * n2));
    const std::vector<float> grad = whole((T - 1) * stride + K, dice), keys = whole(n1 * w, dice),
                             query = whole((T - 1) * query_stride + w, dice);
    std::vector<float> expected_query(query.size()), expected_keys(n1 * w);
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t r = 0; r < K; ++r) {
        for (int64_t c = 0; c < w; ++c) {
          const int64_t i = index[t * stride + r] / n2 * w + c, q = t * query_stride + c;
          expected_query[q] += grad[t * stride + r] * keys[i];
          expected_keys[i] += grad[t * stride + r] * query[q];
        }
      }
    }
    for (const Kernels& level : levels()) {
      std::vector<int32_t> start[2], sub_key[2];
      std::vector<float> sums[2], scratch(n1 + n2);
      std::vector<char> seen(n1 + n2);
      SelectedSubKeys<float> selected[2];
      for (int half : {0, 1}) {
        start[half].resize(T + 1);
        sub_key[half].resize(T * K);
        sums[half].resize(T * K);
        selected[half] = {start[half].data(), sub_key[half].data(), sums[half].data()};
      }
      ASSERT_EQ(level.search.float32.collect(index.data(), grad.data(), stride, T, K, n1, n2, selected[0], selected[1],
                                             scratch.data(), seen.data()),
                -1);
      EXPECT_EQ(scratch, std::vector<float>(n1 + n2));
      std::vector<float> of_query(query.size()), of_keys(n1 * w);
      level.search.float32.grad_query(selected[0], keys.data(), T, w, of_query.data(), query_stride);
      level.search.float32.grad_keys(selected[0], query.data(), query_stride, T, w, of_keys.data());
      EXPECT_EQ(of_query, expected_query) << level.name;
      EXPECT_EQ(of_keys, expected_keys) << level.name;
      for (const int64_t wrong : {n1 * n2, int64_t{-1}, INT64_MAX, INT64_MIN}) {
        std::vector<int64_t> bad = index;
        bad.back() = wrong;
        EXPECT_EQ(level.search.float32.collect(bad.data(), grad.data(), stride, T, K, n1, n2, selected[0], selected[1],
                                               scratch.data(), seen.data()),
                  static_cast<int64_t>(bad.size()) - 1);
        scratch.assign(n1 + n2, 0);
        seen.assign(n1 + n2, 0);
      }
    }
  }
}

}  // namespace
}  // namespace loci::product_key_search_kernel_test
