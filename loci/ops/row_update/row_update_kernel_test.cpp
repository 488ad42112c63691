// Sorting, summing and updating without torch, on threads of the standard library, so that sanitizers see all of it:
// against loops that follow the contracts number by number, at every level and for any number of threads.
//
// Legend: T tokens, K reads of a token, N rows, D width, U distinct rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <tuple>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/base/random.h"
#include "loci/ops/row_sum/popular_rows.h"
#include "loci/ops/row_update/row_update_parallel.h"

namespace loci::row_update_kernel_test {
namespace {

// A thread for every part.
RunParts threads() {
  return [](int64_t parts, const std::function<void(int64_t)>& work) {
    std::vector<std::thread> running;
    for (int64_t part = 0; part < parts; ++part) running.emplace_back(work, part);
    for (std::thread& thread : running) thread.join();
  };
}

template <class Real>
struct Case {
  int64_t T, K, N, D;
  std::vector<int64_t> index;
  std::vector<Real> weight, source;

  Case(int64_t T, int64_t K, int64_t N, int64_t D, uint64_t seed) : T(T), K(K), N(N), D(D) {
    std::mt19937_64 bits(seed);
    std::normal_distribution<double> normal;
    for (int64_t m = 0; m < T * K; ++m) {
      // Every other read falls on row 3: it holds most references.
      index.push_back(m % 2 == 0 ? std::min<int64_t>(3, N - 1)
                                 : static_cast<int64_t>(bits() % static_cast<uint64_t>(N)));
      weight.push_back(m % 11 == 5 ? 0 : static_cast<Real>(normal(bits)));
    }
    for (int64_t s = 0; s < T * D; ++s) source.push_back(static_cast<Real>(normal(bits)));
  }
  ReferenceList<Real> list() const { return {index.data(), weight.data(), T * K, 0, K}; }
  SortedReferences<Real> sorted(int64_t parts) const {
    const ReferenceList<Real> one = list();
    return sort_references<Real>({&one, 1}, parts, threads());
  }
};

TEST(RowSort, GroupsEachRowsReferencesInTheirOrder) {
  for (const int64_t scale : {int64_t{1}, int64_t{1} << 20, int64_t{1} << 40}) {  // counted, packed, wide
    for (const int64_t parts : {1, 2, 3, 8}) {
      Case<float> c(60, 7, 40, 1, 1);
      for (int64_t& row : c.index) row *= scale;
      // Reads of different K.
      const std::vector<ReferenceList<float>> lists = {{c.index.data(), c.weight.data(), 140, 0, 7},
                                                       {c.index.data() + 140, c.weight.data() + 140, 160, 20, 4},
                                                       {c.index.data() + 300, c.weight.data() + 300, 120, 60, 1}};
      const auto sorted = sort_references<float>(lists, parts, threads());
      std::map<int64_t, std::vector<std::pair<int32_t, float>>> wanted;
      for (int64_t m = 0; m < 420; ++m) {
        const int64_t source = m < 140 ? m / 7 : m < 300 ? 20 + (m - 140) / 4 : 60 + m - 300;
        if (c.weight[m] != 0) wanted[c.index[m]].emplace_back(source, c.weight[m]);
      }
      ASSERT_EQ(sorted.rows, std::ssize(wanted));
      int64_t u = 0, m = 0;
      for (const auto& [row, references] : wanted) {
        EXPECT_EQ(sorted.row[u], row);
        EXPECT_EQ(sorted.begin[u++], m);
        for (const auto& [source, coefficient] : references) {
          EXPECT_EQ(sorted.source[m], source);
          EXPECT_EQ(sorted.coefficient[m++], coefficient);
        }
      }
      EXPECT_EQ(sorted.size, m);
      EXPECT_EQ(sorted.begin[u], m);
    }
  }
}

TEST(RowSort, NamesTheFirstBadRowAndTakesNoReferences) {
  Case<float> c(50, 4, 9, 1, 2);
  c.index[77] = -5;
  c.index[150] = -9;
  EXPECT_EQ(c.sorted(1).bad_row, -5);
  EXPECT_EQ(c.sorted(3).bad_row, -5);
  const ReferenceList<float> none{nullptr, nullptr, 0, 0, 4};
  EXPECT_EQ(sort_references<float>({&none, 1}, 3, threads()).rows, 0);
}

// The contract of row_sum, number by number.
template <class Real>
std::vector<Real> sum_by_hand(const Case<Real>& c, const SortedReferences<Real>& s, int64_t u) {
  std::vector<Real> sum(c.D, 0);
  for (int64_t begin = s.begin[u]; begin < s.begin[u + 1]; begin += 128) {
    std::vector<Real> block(c.D, 0);
    for (int64_t m = begin; m < std::min(begin + 128, s.begin[u + 1]); ++m) {
      for (int64_t d = 0; d < c.D; ++d) {
        const Real term = s.coefficient[m] * c.source[s.source[m] * c.D + d];
        block[d] += term;
      }
    }
    for (int64_t d = 0; d < c.D; ++d) sum[d] += block[d];
  }
  return sum;
}

// Rows, moments and counts, and what points at them.
template <class Real>
struct Table {
  std::vector<Real> value, moment1, moment2;
  std::vector<uint16_t> small_value, small1, small2;  // bfloat16
  std::vector<int32_t> count;
  std::vector<double> square;
  RowSumArguments<Real> references{};

  Table(const Case<Real>& c, int64_t rows)
      : value(c.N * c.D),
        moment1(c.N * c.D),
        moment2(c.N * c.D),
        small_value(c.N * c.D, 0x3f80),
        small1(c.N * c.D),
        small2(c.N * c.D),
        count(c.N),
        square(rows) {
    for (size_t i = 0; i < value.size(); ++i) value[i] = static_cast<Real>(i % 17) - 8;
    for (size_t i = 0; i < count.size(); ++i) count[i] = static_cast<int32_t>(i * 37 % 3000);
  }
  bool operator==(const Table& other) const {
    const auto values = [](const Table& t) {
      return std::tie(t.value, t.moment1, t.moment2, t.small_value, t.small1, t.small2, t.count, t.square);
    };
    return values(*this) == values(other);
  }

  RowUpdateArguments<Real> arguments(const Case<Real>& c, const SortedReferences<Real>& s, RowRule rule,
                                     bool small_table, bool small_moments) {
    RowUpdateArguments<Real> a{};
    const bool adam = rule == RowRule::adam || rule == RowRule::adam_row_moment;
    a.table = small_table ? static_cast<void*>(small_value.data()) : value.data();
    a.moment1 = !adam ? nullptr : small_moments ? static_cast<void*>(small1.data()) : moment1.data();
    a.moment2 = rule == RowRule::sgd                     ? nullptr
                : small_moments && rule == RowRule::adam ? static_cast<void*>(small2.data())
                                                         : moment2.data();
    a.count = adam ? count.data() : nullptr;
    a.bfloat16_table = small_table;
    a.bfloat16_moments = small_moments && adam;
    a.width = c.D;
    a.row = s.row.get();
    a.rows = s.rows;
    references = {s.begin.get(), s.source.get(), s.coefficient.get(), c.source.data(), c.D};
    a.references = &references;
    a.square_sum = square.data();
    a.update = {rule, RowRounding::stochastic, 0.01, 0.9, 0.999, 1e-8, 0.1, 0.5, 77, 5};
    return a;
  }
};

constexpr RowRule kRules[] = {RowRule::adam, RowRule::adam_row_moment, RowRule::adagrad, RowRule::sgd};

template <class Real>
void expect_same_for_all(int64_t T, int64_t K, int64_t N, int64_t D) {
  const Case<Real> c(T, K, N, D, 3);
  const auto one = c.sorted(1);
  for (const RowRule rule : kRules) {
    for (const int kind : {0, 1, 2, 3}) {
      const bool small_table = kind & 1, small_moments = kind & 2;
      if (sizeof(Real) == 8 && kind != 0) continue;
      // The gradient given as a whole, from sums by hand.
      std::vector<Real> gradient;
      for (int64_t u = 0; u < one.rows; ++u) {
        const auto sum = sum_by_hand(c, one, u);
        gradient.insert(gradient.end(), sum.begin(), sum.end());
      }
      Table<Real> wanted(c, one.rows);
      auto whole = wanted.arguments(c, one, rule, small_table, small_moments);
      whole.references = nullptr;
      whole.gradient = gradient.data();
      update_rows(whole, CpuLevel::base, 1, threads());
      for (const CpuLevel level : cpu_levels()) {
        for (const int64_t parts : {1, 2, 3, 8}) {
          const auto s = c.sorted(parts);
          Table<Real> table(c, s.rows);
          update_rows(table.arguments(c, s, rule, small_table, small_moments), level, parts, threads());
          EXPECT_TRUE(table == wanted) << name_of(level) << ", rule " << static_cast<int>(rule) << ", kind " << kind
                                       << ", D " << D << ", threads " << parts;
          Table<Real> only(c, s.rows);
          const Table<Real> before = only;
          square_sums(only.arguments(c, s, rule, small_table, small_moments), level, parts, threads());
          EXPECT_EQ(only.square, wanted.square);
          EXPECT_EQ(only.value, before.value);
        }
      }
    }
  }
}

TEST(RowUpdateKernel, FusedEqualsSumsByHandAtEveryLevelAndThreadCount) {
  for (const int64_t D : {1, 7, 8, 9, 16, 17, 33, 64, 65, 130}) expect_same_for_all<float>(40, 6, 50, D);
  for (const int64_t D : {3, 8, 33}) expect_same_for_all<double>(40, 6, 50, D);
}

// Row 3 holds half of 24,000 references: its blocks are summed by all threads.
TEST(RowUpdateKernel, APopularRowIsSharedByAllThreadsWithTheSameBits) {
  expect_same_for_all<float>(1500, 16, 300, 20);
  const Case<float> c(1500, 16, 300, 20, 3);
  const auto s = c.sorted(1);
  const RowSumArguments<float> a{s.begin.get(), s.source.get(), s.coefficient.get(), c.source.data(), c.D};
  EXPECT_FALSE(PopularRows<float>(a, s.rows, CpuLevel::base, 2, threads()).empty());
}

// Adam in double, without the kernels: the rows follow it to rounding.
TEST(RowUpdateKernel, FollowsAdamInDouble) {
  const Case<double> c(30, 4, 20, 5, 4);
  const auto s = c.sorted(2);
  Table<double> table(c, s.rows);
  for (size_t i = 0; i < table.count.size(); ++i) table.count[i] = 4 + 1024 * static_cast<int32_t>(i % 3);  // one place
  const Table<double> before = table;
  update_rows(table.arguments(c, s, RowRule::adam, false, false), best_cpu_level(), 2, threads());
  for (int64_t u = 0; u < s.rows; ++u) {
    const auto sum = sum_by_hand(c, s, u);
    const int64_t row = s.row[u], t = before.count[row] + 1;
    EXPECT_EQ(table.count[row], t);
    for (int64_t d = 0; d < c.D; ++d) {
      const double g = 0.5 * sum[d], m = 0.1 * g, v = 0.001 * g * g;
      const double step = 0.01 * (m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.999, t))) + 1e-8);
      EXPECT_NEAR(table.value[row * c.D + d], before.value[row * c.D + d] * (1 - 0.01 * 0.1) - step, 1e-12);
    }
  }
}

// The second moment of row 0 becomes infinite: its values become NaN, those of row 1 stay finite.
TEST(RowUpdateKernel, ASquareBeyondFloat32MakesTheRowNaNAtEveryLevel) {
  const int64_t D = 21;
  for (const CpuLevel level : cpu_levels()) {
    for (const RowRule rule : kRules) {
      std::vector<float> gradient(2 * D, 1.0F), value(2 * D, 1.0F), moment1(2 * D), moment2(2 * D);
      for (int64_t d = 0; d < D; ++d) gradient[d] = 2e19F;
      std::vector<int32_t> count(2);
      const std::vector<int64_t> row = {0, 1};
      RowUpdateArguments<float> a{};
      a.table = value.data();
      a.moment1 = moment1.data();
      a.moment2 = moment2.data();
      a.count = count.data();
      a.width = D;
      a.row = row.data();
      a.rows = 2;
      a.gradient = gradient.data();
      a.update = {rule, RowRounding::nearest, 0.01, 0.9, 0.999, 1e-8, 0, 1, 0, 0};
      update_rows(a, level, 1, threads());
      for (int64_t d = 0; d < D; ++d) {
        EXPECT_EQ(std::isnan(value[d]), rule != RowRule::sgd) << name_of(level) << ", rule " << static_cast<int>(rule);
        EXPECT_TRUE(std::isfinite(value[D + d])) << name_of(level) << ", rule " << static_cast<int>(rule);
      }
    }
  }
}

TEST(RowUpdateKernel, NothingIsReadWhereThereAreNoRowsOrColumns) {
  for (const CpuLevel level : cpu_levels()) {
    RowUpdateArguments<float> none{};  // every pointer is null
    none.width = 3;
    update_rows(none, level, 2, threads());
    square_sums(none, level, 2, threads());
    const std::vector<int64_t> row = {0, 1};
    std::vector<double> square = {7, 7};
    std::vector<int32_t> count = {4, 5};
    RowUpdateArguments<float> no_columns{};
    no_columns.row = row.data();
    no_columns.rows = 2;
    no_columns.count = count.data();
    no_columns.square_sum = square.data();
    update_rows(no_columns, level, 2, threads());
    EXPECT_EQ(square, std::vector<double>({0, 0}));
    EXPECT_EQ(count, std::vector<int32_t>({4, 5}));
  }
}

TEST(RowUpdateKernel, TasksCoverAllRowsOnce) {
  const std::vector<int64_t> begin = {0, 1, 9000, 9001, 9002, 30000, 30001};
  for (const int64_t threads_ : {1, 2, 8}) {
    const auto task = row_tasks(begin.data(), 6, 4, threads_);
    EXPECT_EQ(task.front(), 0);
    EXPECT_EQ(task.back(), 6);
    EXPECT_TRUE(std::is_sorted(task.begin(), task.end()));
  }
}

}  // namespace
}  // namespace loci::row_update_kernel_test
