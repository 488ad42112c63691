// Fuzz target: whatever the bytes, the kernels of each level of this CPU do as those of the base level. Selections,
// linear maps, norms and updates of rows have the same bits; scores and reads differ by their order of sums at most.
//
// Legend: T tokens, K top_k or reads of a token, n sub-keys of a half, w width of half a query, N rows, D width,
// C features.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <new>
#include <random>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/batch_norm/batch_norm_kernel.h"
#include "loci/ops/binary_linear/binary_linear_kernel.h"
#include "loci/ops/few_linear/few_linear_kernel.h"
#include "loci/ops/half_norm/half_norm_kernel.h"
#include "loci/ops/product_key_search/product_key_search_kernel.h"
#include "loci/ops/product_key_select/product_key_select_kernel.h"
#include "loci/ops/row_update/row_update_parallel.h"
#include "loci/ops/table_read/table_read_kernel.h"

namespace {

using loci::CpuLevel;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "levels: %s\n", what);
  std::abort();
}

std::vector<CpuLevel> levels_above_base() {
  std::vector<CpuLevel> found = loci::cpu_levels();
  found.erase(found.begin());
  return found;
}

struct Kernels {
  const loci::ProductKeySelectKernel& select;
  const loci::ProductKeySearchKernel& search;
  const loci::TableReadKernel& read;
};

Kernels kernels(CpuLevel level) {
  using loci::at_level;
  return {
      at_level(level, loci::base::product_key_select_kernel, loci::avx2::product_key_select_kernel,
               loci::avx512::product_key_select_kernel),
      at_level(level, loci::base::product_key_search_kernel, loci::avx2::product_key_search_kernel,
               loci::avx512::product_key_search_kernel),
      at_level(level, loci::base::table_read_kernel, loci::avx2::table_read_kernel, loci::avx512::table_read_kernel)};
}

// The input's bytes, and behind them endless ones that depend on all of it: a short input makes a case of any size.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {
    std::seed_seq seed(data, data + size);
    more_.seed(seed);
  }
  uint8_t byte() { return next_ < size_ ? data_[next_++] : static_cast<uint8_t>(more_()); }
  int64_t below(int64_t bound) { return (byte() * 256 + byte()) % bound; }
  float tame() { return static_cast<float>(static_cast<int8_t>(byte())) / 16; }
  // Any float: NaN, infinite, denormal.
  float wild() {
    const uint32_t high = byte(), low = byte();
    return std::bit_cast<float>(high << 24 | low << 16 | (low & 1));
  }
  std::vector<float> many(int64_t count, float (Bytes::*value)()) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& one : values) one = (this->*value)();
    return values;
  }

 private:
  const uint8_t* data_;
  size_t size_, next_ = 0;
  std::mt19937 more_;
};

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

// `magnitude`: the sum of the terms' absolute values, of `terms` terms.
bool same_sum(float a, float b, double magnitude, int64_t terms) {
  return std::abs(double{a} - double{b}) <= magnitude * static_cast<double>(terms + 2) * 0x1p-23;
}

void select(Bytes& bytes) {
  const int64_t n1 = 1 + bytes.below(90), n2 = 1 + bytes.below(90);
  const int64_t addresses = bytes.below(2) != 0 ? n1 * n2 : 1 + bytes.below(n1 * n2);
  const int64_t K = 1 + bytes.below(std::min<int64_t>(addresses, 100));
  const auto value = bytes.below(2) != 0 ? &Bytes::wild : &Bytes::tame;
  const std::vector<float> one = bytes.many(n1, value), two = bytes.many(n2, value);
  const loci::ProductKeySelectShape shape{n1, n2, K, addresses};
  std::vector<float> expected_score(K), score(K);
  std::vector<int64_t> expected_index(K), index(K);
  const auto run = [&](CpuLevel level, std::vector<float>& s, std::vector<int64_t>& i) {
    const auto& kernel = kernels(level).select;
    void* const scratch = ::operator new(kernel.scratch_bytes(shape), std::align_val_t(64));
    kernel.select_float32(shape, one.data(), two.data(), s.data(), i.data(), scratch);
    ::operator delete(scratch, std::align_val_t(64));
  };
  run(CpuLevel::base, expected_score, expected_index);
  for (const CpuLevel level : levels_above_base()) {
    run(level, score, index);
    require(index == expected_index, "a selection's addresses");
    require(std::equal(score.begin(), score.end(), expected_score.begin(), same_bits), "a selection's scores");
  }
}

void scores(Bytes& bytes) {
  const int64_t n = 1 + bytes.below(70), w = 1 + bytes.below(70), T = 1 + bytes.below(20), stride = w + bytes.below(3);
  const std::vector<float> query = bytes.many((T - 1) * stride + w, &Bytes::tame);
  const std::vector<float> keys = bytes.many(n * w, &Bytes::tame);
  const auto run = [&](CpuLevel level) {
    const auto& kernel = kernels(level).search;
    constexpr int64_t columns = loci::ProductKeySearchKernel::tokens;
    std::vector<float> score(n * columns), block((columns + 4) * w), result(T * n);
    kernel.scores(query.data(), loci::QueryElement::float32, stride, T, keys.data(), n, w, score.data(), block.data());
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t i = 0; i < n; ++i) result[t * n + i] = score[i * columns + t];
    }
    return result;
  };
  const std::vector<float> expected = run(CpuLevel::base);
  for (const CpuLevel level : levels_above_base()) {
    const std::vector<float> got = run(level);
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t i = 0; i < n; ++i) {
        double magnitude = 0;
        for (int64_t c = 0; c < w; ++c) magnitude += std::abs(double{query[t * stride + c]} * keys[i * w + c]);
        require(same_sum(got[t * n + i], expected[t * n + i], magnitude, w), "a sub-score");
      }
    }
  }
}

// What `run` leaves at a level has the bits of the base level.
void require_same_bits(const char* what, const std::function<std::vector<float>(CpuLevel)>& run) {
  const std::vector<float> expected = run(CpuLevel::base);
  for (const CpuLevel level : levels_above_base()) {
    const std::vector<float> got = run(level);
    require(std::equal(got.begin(), got.end(), expected.begin(), expected.end(), same_bits), what);
  }
}

void append(std::vector<float>& to, const std::vector<double>& sums) {
  for (const double sum : sums) to.push_back(static_cast<float>(sum));
}

void linear(Bytes& bytes) {
  const int64_t T = 1 + bytes.below(loci::FewLinearKernel::most_vectors), d = 1 + bytes.below(90);
  const int64_t outputs = 1 + bytes.below(20), stride = d + bytes.below(3);
  const auto value = bytes.below(2) != 0 ? &Bytes::wild : &Bytes::tame;
  const std::vector<float> x = bytes.many((T - 1) * stride + d, value), weight = bytes.many(outputs * d, value);
  const std::vector<float> bias = bytes.many(outputs, value);
  require_same_bits("a linear map", [&](CpuLevel level) {
    std::vector<float> y(T * outputs);
    loci::at_level(level, loci::base::few_linear_kernel, loci::avx2::few_linear_kernel, loci::avx512::few_linear_kernel)
        .float32(x.data(), stride, T, weight.data(), bias.data(), outputs, d, y.data(), outputs);
    return y;
  });
}

void binary(Bytes& bytes) {
  const int64_t T = 1 + bytes.below(9), K = 1 + bytes.below(2000), O = 1 + bytes.below(70), words = (K + 63) / 64;
  const std::vector<float> x = bytes.many(T * K, &Bytes::wild), weight = bytes.many(O * K, &Bytes::wild);
  std::vector<int32_t> threshold(O);
  for (int32_t& least : threshold) least = static_cast<int32_t>(bytes.below(9) - 4);
  const std::vector<uint64_t> turned((O + 63) / 64, uint64_t{0xf0} << bytes.below(60));
  const auto run = [&](CpuLevel level, bool popcount) {
    const auto& kernel = loci::at_level(level, loci::base::binary_linear_kernel, loci::avx2::binary_linear_kernel,
                                        loci::avx512::binary_linear_kernel);
    std::vector<uint64_t> a(T * words), b(O * words), bits(turned.size());
    for (int64_t t = 0; t < T; ++t) kernel.pack(x.data() + t * K, K, a.data() + t * words);
    for (int64_t o = 0; o < O; ++o) kernel.pack(weight.data() + o * K, K, b.data() + o * words);
    std::vector<int32_t> y(T * O);
    (popcount ? kernel.products_by_popcount : kernel.products)(a.data(), T, b.data(), O, words, K, y.data(), O);
    kernel.threshold(y.data(), O, threshold.data(), turned.data(), bits.data());
    a.insert(a.end(), bits.begin(), bits.end());
    a.insert(a.end(), y.begin(), y.end());
    return a;
  };
  const std::vector<uint64_t> expected = run(CpuLevel::base, false);
  for (const CpuLevel level : levels_above_base()) {
    require(run(level, false) == expected, "products of signs");
    if (level == CpuLevel::avx512 && loci::cpu_has_vpopcntdq()) require(run(level, true) == expected, "popcounts");
  }
}

void half_norm(Bytes& bytes) {
  const int64_t cycle = 2 * (1 + bytes.below(3)), rows = cycle * (1 + bytes.below(4)), w = 1 + bytes.below(70);
  const bool with_bias = bytes.below(2) != 0;
  const auto value = bytes.below(2) != 0 ? &Bytes::wild : &Bytes::tame;
  const std::vector<float> x = bytes.many(rows * w, value), dy = bytes.many(rows * w, value);
  const std::vector<float> gain = bytes.many(cycle * w, value), bias = bytes.many(cycle * w, value);
  require_same_bits("a norm of halves", [&](CpuLevel level) {
    const auto& functions = loci::at_level(level, loci::base::half_norm_kernel, loci::avx2::half_norm_kernel,
                                           loci::avx512::half_norm_kernel)
                                .float32;
    std::vector<float> y(rows * w), mean(rows), scale(rows), dx(rows * w);
    std::vector<double> dgain(cycle * w), dbias(cycle * w);
    functions.forward(x.data(), gain.data(), with_bias ? bias.data() : nullptr, rows, cycle, w, 1e-5, y.data(),
                      mean.data(), scale.data());
    functions.backward(x.data(), dy.data(), mean.data(), scale.data(), gain.data(), rows, cycle, w, dx.data(),
                       dgain.data(), with_bias ? dbias.data() : nullptr);
    for (const auto* part : {&mean, &scale, &dx}) y.insert(y.end(), part->begin(), part->end());
    append(y, dgain);
    append(y, dbias);
    return y;
  });
}

void batch_norm(Bytes& bytes) {
  const int64_t T = 1 + bytes.below(50), C = 1 + bytes.below(80);
  const auto value = bytes.below(2) != 0 ? &Bytes::wild : &Bytes::tame;
  const std::vector<float> x = bytes.many(T * C, value), dy = bytes.many(T * C, value);
  std::vector<std::vector<float>> row;  // mean, low, factor, bias or shift, slope
  for (int i = 0; i < 5; ++i) row.push_back(bytes.many(C, value));
  require_same_bits("a batch norm", [&](CpuLevel level) {
    const auto& functions = loci::at_level(level, loci::base::batch_norm_kernel, loci::avx2::batch_norm_kernel,
                                           loci::avx512::batch_norm_kernel)
                                .float32;
    const float *const mean = row[0].data(), *const low = row[1].data(), *const factor = row[2].data();
    std::vector<float> y(T * C), dx(T * C);
    std::vector<double> sum(C), square(C), grad_sum(C), product(C), scale(C);
    functions.sums(x.data(), mean, T, C, sum.data(), square.data());
    functions.scales(square.data(), 1e-5, C, scale.data());
    functions.normalise(x.data(), mean, low, factor, row[3].data(), T, C, y.data());
    functions.gradient_sums(x.data(), dy.data(), mean, low, T, C, grad_sum.data(), product.data());
    functions.gradient(x.data(), dy.data(), mean, low, factor, row[3].data(), row[4].data(), T, C, dx.data());
    y.insert(y.end(), dx.begin(), dx.end());
    for (const auto* part : {&sum, &square, &grad_sum, &product, &scale}) append(y, *part);
    return y;
  });
}

void read(Bytes& bytes) {
  const int64_t N = 1 + bytes.below(60), D = 1 + bytes.below(140), T = 1 + bytes.below(12), K = 1 + bytes.below(40);
  const std::vector<float> table = bytes.many(N * D, &Bytes::tame), weight = bytes.many(T * K, &Bytes::tame);
  const std::vector<float> grad = bytes.many(T * D, &Bytes::tame);
  std::vector<int64_t> index(T * K);
  for (int64_t& row : index) row = bytes.below(N);
  if (bytes.below(4) == 0) index[bytes.below(T * K)] = bytes.below(2) != 0 ? N + bytes.below(9) : INT64_MIN + N;
  const auto run = [&](CpuLevel level, bool backward, std::vector<float>& out) {
    const auto& functions = kernels(level).read.float32;
    const void* const factor = backward ? grad.data() : weight.data();
    const loci::TableReadArguments a{table.data(), nullptr, N, D, D, index.data(), T, K, factor, out.data()};
    return (backward ? functions.project : functions.read)(a, 0, T);
  };
  for (const bool backward : {false, true}) {
    const int64_t columns = backward ? K : D;
    std::vector<float> expected(T * columns), got(T * columns);
    const int64_t bad = run(CpuLevel::base, backward, expected);
    for (const CpuLevel level : levels_above_base()) {
      require(run(level, backward, got) == bad, "the place of an index outside the table");
      if (bad >= 0) continue;
      for (int64_t i = 0; i < T * columns; ++i) {
        const int64_t t = i / columns, c = i % columns;
        double magnitude = 0;
        for (int64_t j = 0; j < (backward ? D : K); ++j) {
          const int64_t column = backward ? j : c, p = t * K + (backward ? c : j);
          magnitude += std::abs(double{table[index[p] * D + column]} * (backward ? grad[t * D + j] : weight[p]));
        }
        require(same_sum(got[i], expected[i], magnitude, backward ? D : K), "a read or its weight's gradient");
      }
    }
  }
}

// Runs the parts one after another: threads are the business of other tests.
void run_parts(int64_t parts, const std::function<void(int64_t)>& work) {
  for (int64_t part = 0; part < parts; ++part) work(part);
}

void update(Bytes& bytes) {
  const int64_t N = 1 + bytes.below(30), D = 1 + bytes.below(70), T = 1 + bytes.below(12), K = 1 + bytes.below(20);
  const std::vector<float> weight = bytes.many(T * K, &Bytes::tame), source = bytes.many(T * D, &Bytes::wild);
  std::vector<int64_t> index(T * K);
  for (int64_t& row : index) row = bytes.below(N);
  const loci::ReferenceList<float> list{index.data(), weight.data(), T * K, 0, K};
  const int64_t parts = 1 + bytes.below(4);
  const auto sorted = loci::sort_references<float>({&list, 1}, parts, run_parts);
  const auto rule = static_cast<loci::RowRule>(bytes.below(4));
  const bool adam = rule == loci::RowRule::adam || rule == loci::RowRule::adam_row_moment;
  const std::vector<float> start = bytes.many(N * D, &Bytes::tame);
  const loci::RowSumArguments<float> references{sorted.begin.get(), sorted.source.get(), sorted.coefficient.get(),
                                                source.data(), D};
  const auto run = [&](CpuLevel level) {
    std::vector<float> table = start, moment1(N * D), moment2(N * D);
    std::vector<int32_t> count(N);
    loci::RowUpdateArguments<float> a{};
    a.table = table.data();
    a.moment1 = adam ? moment1.data() : nullptr;
    a.moment2 = rule == loci::RowRule::sgd ? nullptr : moment2.data();
    a.count = adam ? count.data() : nullptr;
    a.width = D;
    a.row = sorted.row.get();
    a.rows = sorted.rows;
    a.references = &references;
    a.update = {rule, loci::RowRounding::stochastic, 0.01, 0.9, 0.999, 1e-8, 0.1, 0.5, 77, 5};
    loci::update_rows(a, level, parts, run_parts);
    table.insert(table.end(), moment1.begin(), moment1.end());
    table.insert(table.end(), moment2.begin(), moment2.end());
    return table;
  };
  require_same_bits("an update of rows", run);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  constexpr void (*kCases[])(Bytes&) = {select, scores, read, update, linear, half_norm, batch_norm, binary};
  kCases[bytes.byte() % std::size(kCases)](bytes);
  return 0;
}
