#include "loci/ops/row_update/row_update_kernel.h"

#include <math.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// AVX512_BF16 rounds to nearest alone and takes subnormal numbers for zero: rows would differ from those of other CPUs,
// for nothing, since the bound is memory.

namespace loci::LOCI_LEVEL {
namespace {

// The numbers of one row's update. `rate` and `root` hold the bias corrections of its own count t.
template <class Real>
struct RowNumbers {
  Real factor;  // of the gradient
  Real decay;   // 1 - rate * weight_decay
  Real rate;    // adam: rate / (1 - b1^t)
  Real root;    // adam: 1 / sqrt(1 - b2^t)
  Real epsilon;
  Real beta1, rest1;  // b1, 1 - b1
  Real beta2, rest2;
};

float root_of(float x) {
  return __builtin_sqrtf(x);
}
double root_of(double x) {
  return __builtin_sqrt(x);
}

// Eight partial sums in a fixed order: the bits depend on the width alone.
template <class Real>
double square_sum(int64_t width, const Real* gradient, Real factor) {
  double part[8] = {};
  int64_t d = 0;
  for (; d + 8 <= width; d += 8) {
    for (int lane = 0; lane < 8; ++lane) {
      const double g = gradient[d + lane] * factor;
      part[lane] += g * g;
    }
  }
  for (int lane = 0; d < width; ++d, ++lane) {
    const double g = gradient[d] * factor;
    part[lane] += g * g;
  }
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

template <class Real>
void adam(const RowNumbers<Real>& n, int64_t width, const Real* __restrict gradient, Real* __restrict value,
          Real* __restrict moment1, Real* __restrict moment2) {
  for (int64_t d = 0; d < width; ++d) {
    const Real g = gradient[d] * n.factor;
    moment1[d] = moment1[d] * n.beta1 + g * n.rest1;
    moment2[d] = moment2[d] * n.beta2 + g * g * n.rest2;
    value[d] = value[d] * n.decay - moment1[d] * n.rate / (root_of(moment2[d]) * n.root + n.epsilon);
  }
}

template <class Real>
void adam_row_moment(const RowNumbers<Real>& n, int64_t width, const Real* __restrict gradient, Real* __restrict value,
                     Real* __restrict moment1, Real* __restrict moment2) {
  const Real square = static_cast<Real>(square_sum(width, gradient, n.factor) / static_cast<double>(width));
  *moment2 = *moment2 * n.beta2 + square * n.rest2;
  const Real denominator = root_of(*moment2) * n.root + n.epsilon;
  for (int64_t d = 0; d < width; ++d) {
    moment1[d] = moment1[d] * n.beta1 + gradient[d] * n.factor * n.rest1;
    value[d] = value[d] * n.decay - moment1[d] * n.rate / denominator;
  }
}

template <class Real>
void adagrad(const RowNumbers<Real>& n, int64_t width, const Real* __restrict gradient, Real* __restrict value,
             Real* __restrict moment2) {
  *moment2 += static_cast<Real>(square_sum(width, gradient, n.factor) / static_cast<double>(width));
  const Real denominator = root_of(*moment2) + n.epsilon;
  for (int64_t d = 0; d < width; ++d) {
    value[d] = value[d] * n.decay - gradient[d] * n.factor * n.rate / denominator;
  }
}

template <class Real>
void sgd(const RowNumbers<Real>& n, int64_t width, const Real* __restrict gradient, Real* __restrict value) {
  for (int64_t d = 0; d < width; ++d) value[d] = value[d] * n.decay - gradient[d] * n.factor * n.rate;
}

uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

float widened(uint16_t row) {
  return float_of(static_cast<uint32_t>(row) << 16);
}

// `yes` where the condition holds, without a branch: loops with one do not become vectors.
uint32_t choose(bool condition, uint32_t yes, uint32_t no) {
  const uint32_t mask = 0 - static_cast<uint32_t>(condition);
  return (yes & mask) | (no & ~mask);
}

// To nearest, ties to even; any NaN becomes the usual quiet one.
uint32_t narrowed_bits(uint32_t bits) {
  return choose((bits & 0x7fffffff) > 0x7f800000, 0x7fc0, (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t narrowed(float x) {
  return static_cast<uint16_t>(narrowed_bits(bits_of(x)));
}

void read(int64_t width, const uint16_t* __restrict row, float* __restrict value) {
  for (int64_t d = 0; d < width; ++d) value[d] = widened(row[d]);
}

void read_master(int64_t width, const uint16_t* __restrict row, const float* __restrict master,
                 float* __restrict value) {
  for (int64_t d = 0; d < width; ++d) {
    const float stored = widened(row[d]);
    value[d] = widened(narrowed(master[d])) == stored ? master[d] : stored;
  }
}

void write_nearest(int64_t width, const float* __restrict value, uint16_t* __restrict row) {
  for (int64_t d = 0; d < width; ++d) row[d] = narrowed(value[d]);
}

// The carry of the random bits rounds the magnitude up with the probability of what is cut off.
void write_stochastic(int64_t width, const float* __restrict value, const uint16_t* __restrict bits,
                      uint16_t* __restrict row) {
  for (int64_t d = 0; d < width; ++d) {
    const uint32_t x = bits_of(value[d]);
    row[d] = static_cast<uint16_t>(choose((x & 0x7f800000) == 0x7f800000, narrowed_bits(x), (x + bits[d]) >> 16));
  }
}

// Eight blocks of Philox 4x32-10 side by side, as base/random.h defines one: 64 columns.
#if defined(__AVX2__)
struct Product {
  __m256i low, high;
};

Product multiply(__m256i x, __m256i factor) {
  const __m256i even = _mm256_mul_epu32(x, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
  return {_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa),
          _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa)};
}

void rounding_bits(uint64_t seed, int64_t step, int64_t row, int64_t width, uint16_t* __restrict bits) {
  const auto all = [](uint64_t x) { return _mm256_set1_epi32(static_cast<int32_t>(static_cast<uint32_t>(x))); };
  const __m256i factor0 = all(0xD2511F53), factor1 = all(0xCD9E8D57);
  for (int64_t column = 0; column < width; column += 64) {
    __m256i c0 = all(static_cast<uint64_t>(row)), c1 = all(static_cast<uint64_t>(row) >> 32);
    __m256i c2 = _mm256_add_epi32(all(static_cast<uint64_t>(column / 8)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i c3 = all(static_cast<uint64_t>(step));
    __m256i key0 = all(seed), key1 = all(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const Product a = multiply(c0, factor0), b = multiply(c2, factor1);
      c0 = _mm256_xor_si256(_mm256_xor_si256(b.high, c1), key0);
      c1 = b.low;
      c2 = _mm256_xor_si256(_mm256_xor_si256(a.high, c3), key1);
      c3 = a.low;
      key0 = _mm256_add_epi32(key0, all(0x9E3779B9));
      key1 = _mm256_add_epi32(key1, all(0xBB67AE85));
    }
    // The four words of each block together.
    const __m256i low01 = _mm256_unpacklo_epi32(c0, c1), low23 = _mm256_unpacklo_epi32(c2, c3);
    const __m256i high01 = _mm256_unpackhi_epi32(c0, c1), high23 = _mm256_unpackhi_epi32(c2, c3);
    const __m256i block04 = _mm256_unpacklo_epi64(low01, low23), block15 = _mm256_unpackhi_epi64(low01, low23);
    const __m256i block26 = _mm256_unpacklo_epi64(high01, high23), block37 = _mm256_unpackhi_epi64(high01, high23);
    __m256i* out = reinterpret_cast<__m256i*>(bits + column);
    _mm256_storeu_si256(out, _mm256_permute2x128_si256(block04, block15, 0x20));
    _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(block26, block37, 0x20));
    _mm256_storeu_si256(out + 2, _mm256_permute2x128_si256(block04, block15, 0x31));
    _mm256_storeu_si256(out + 3, _mm256_permute2x128_si256(block26, block37, 0x31));
  }
}
#else
void rounding_bits(uint64_t seed, int64_t step, int64_t row, int64_t width, uint16_t* __restrict bits) {
  for (int64_t column = 0; column < width; column += 64) {
    uint32_t counter[4][8];
    for (int lane = 0; lane < 8; ++lane) {
      counter[0][lane] = static_cast<uint32_t>(row);
      counter[1][lane] = static_cast<uint32_t>(row >> 32);
      counter[2][lane] = static_cast<uint32_t>(column / 8 + lane);
      counter[3][lane] = static_cast<uint32_t>(step);
    }
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int lane = 0; lane < 8; ++lane) {
        const uint64_t product0 = uint64_t{0xD2511F53} * counter[0][lane];
        const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2][lane];
        counter[0][lane] = static_cast<uint32_t>(product1 >> 32) ^ counter[1][lane] ^ key0;
        counter[1][lane] = static_cast<uint32_t>(product1);
        counter[2][lane] = static_cast<uint32_t>(product0 >> 32) ^ counter[3][lane] ^ key1;
        counter[3][lane] = static_cast<uint32_t>(product0);
      }
      key0 += 0x9E3779B9;
      key1 += 0xBB67AE85;
    }
    for (int lane = 0; lane < 8; ++lane) {
      for (int word = 0; word < 4; ++word) {
        bits[column + 8 * lane + 2 * word] = static_cast<uint16_t>(counter[word][lane]);
        bits[column + 8 * lane + 2 * word + 1] = static_cast<uint16_t>(counter[word][lane] >> 16);
      }
    }
  }
}
#endif

// Another stream of random bits than that of the rows. The moments of a column share theirs: the error of a step is
// then off by 2^-18 of it at most.
constexpr uint64_t kMomentStream = 0x6d6f6d656e747321;

template <class Real>
class Updater {
 public:
  Updater(const RowUpdateArguments<Real>& a, BlockSums block_sums, const void* context,
          const RowWorkspace<Real>& workspace)
      : a_(a), block_sums_(block_sums), context_(context), bias_(workspace.bias) {
    const int64_t stride = a.width + 64;
    sum_ = workspace.scratch;
    block_ = sum_ + stride;
    value_ = block_ + stride;
    moment1_ = value_ + stride;
    moment2_ = moment1_ + stride;
    bits_ = reinterpret_cast<uint16_t*>(moment2_ + stride);
    table_bytes_ = a.width * (a.bfloat16_table ? 2 : static_cast<int64_t>(sizeof(Real)));
    moment_bytes_ = a.width * (a.bfloat16_moments ? 2 : static_cast<int64_t>(sizeof(Real)));
    const RowUpdate& update = a.update;
    numbers_.factor = static_cast<Real>(update.factor);
    numbers_.decay = static_cast<Real>(1 - update.rate * update.weight_decay);
    numbers_.rate = static_cast<Real>(update.rate);
    numbers_.root = 1;
    numbers_.epsilon = static_cast<Real>(update.epsilon);
    numbers_.beta1 = static_cast<Real>(update.beta1);
    numbers_.rest1 = static_cast<Real>(1 - update.beta1);
    numbers_.beta2 = static_cast<Real>(update.beta2);
    numbers_.rest2 = static_cast<Real>(1 - update.beta2);
  }

  void update(int64_t first, int64_t last) {
    const int64_t bytes = table_bytes_ + (a_.moment1 != nullptr ? 2 * moment_bytes_ : 0);
    int64_t ahead = kAheadBytes / (bytes > 0 ? bytes : 1);
    ahead = ahead < 1 ? 1 : ahead > 8 ? 8 : ahead;
    for (int64_t u = first; u < first + ahead && u < last; ++u) prefetch_row(a_.row[u]);
    for (int64_t u = first; u < last; ++u) {
      if (u + ahead < last) prefetch_row(a_.row[u + ahead]);
      if (u + 1 < last) prefetch_sources(u + 1);
      const Real* gradient = gradient_of(u);
      if (a_.square_sum != nullptr) a_.square_sum[u] = square_sum(a_.width, gradient, Real{1});
      update_row(a_.row[u], gradient);
    }
  }

  void measure(int64_t first, int64_t last) {
    for (int64_t u = first; u < last; ++u) {
      if (u + 1 < last) prefetch_sources(u + 1);
      a_.square_sum[u] = square_sum(a_.width, gradient_of(u), Real{1});
    }
  }

 private:
  static constexpr int64_t kAheadBytes = 8192;  // a quarter of the first-level cache
  static constexpr int64_t kSourcesAhead = 4;

  static void prefetch(const void* start, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(start) + line, 1);
  }

  void prefetch_row(int64_t row) const {
    prefetch(static_cast<const char*>(a_.table) + row * table_bytes_, table_bytes_);
    if (a_.moment1 != nullptr) prefetch(static_cast<const char*>(a_.moment1) + row * moment_bytes_, moment_bytes_);
    if (a_.moment2 != nullptr) {
      if (a_.update.rule == RowRule::adam) {
        prefetch(static_cast<const char*>(a_.moment2) + row * moment_bytes_, moment_bytes_);
      } else {
        __builtin_prefetch(static_cast<const Real*>(a_.moment2) + row, 1);
      }
    }
    if (a_.master != nullptr) prefetch(a_.master + row * a_.width, a_.width * 4);
    if (a_.count != nullptr) __builtin_prefetch(a_.count + row, 1);
  }

  void prefetch_sources(int64_t u) const {
    if (a_.gradient != nullptr) return;
    const RowSumArguments<Real>& r = a_.references;
    const int64_t begin = r.begin[u], end = r.begin[u + 1];
    for (int64_t m = begin; m < end && m < begin + kSourcesAhead; ++m) {
      const char* start = reinterpret_cast<const char*>(r.source + r.source_index[m] * a_.width);
      for (int64_t d = 0; d < a_.width; d += 64 / static_cast<int64_t>(sizeof(Real))) {
        __builtin_prefetch(start + d * static_cast<int64_t>(sizeof(Real)));
      }
    }
  }

  const Real* gradient_of(int64_t u) {
    if (a_.gradient != nullptr) return a_.gradient + u * a_.width;
    const void* sums = context_ == nullptr ? nullptr : block_sums_(context_, u);
    sum_row(a_.references, u, static_cast<const Real*>(sums), sum_, block_);
    return sum_;
  }

  void correct_bias(int32_t t) {
    const int32_t place = t & (RowBias<Real>::kSize - 1);
    if (bias_->count[place] != t) {
      bias_->count[place] = t;
      bias_->rate[place] = static_cast<Real>(a_.update.rate / (1 - pow(a_.update.beta1, static_cast<double>(t))));
      bias_->root[place] = static_cast<Real>(1 / __builtin_sqrt(1 - pow(a_.update.beta2, static_cast<double>(t))));
    }
    numbers_.rate = bias_->rate[place];
    numbers_.root = bias_->root[place];
  }

  void update_row(int64_t row, const Real* gradient) {
    if (a_.count != nullptr) correct_bias(++a_.count[row]);
    if constexpr (sizeof(Real) == sizeof(float)) {
      if (a_.bfloat16_table) return update_bfloat16_row(row, gradient);
    }
    apply(row, gradient, static_cast<Real*>(a_.table) + row * a_.width);
  }

  void update_bfloat16_row(int64_t row, const float* gradient) {
    uint16_t* stored = static_cast<uint16_t*>(a_.table) + row * a_.width;
    if (a_.master == nullptr) {
      read(a_.width, stored, value_);
    } else {
      read_master(a_.width, stored, a_.master + row * a_.width, value_);
    }
    apply(row, gradient, value_);
    if (a_.update.rounding == RowRounding::stochastic) {
      rounding_bits(a_.update.seed, a_.update.step, row, a_.width, bits_);
      write_stochastic(a_.width, value_, bits_, stored);
    } else {
      write_nearest(a_.width, value_, stored);
    }
    if (a_.master != nullptr) __builtin_memcpy(a_.master + row * a_.width, value_, a_.width * sizeof(float));
  }

  // The rule on a row's value, and on its moments wherever they are.
  void apply(int64_t row, const Real* gradient, Real* value) {
    const int64_t width = a_.width, start = row * width;
    Real* of_row = static_cast<Real*>(a_.moment2) + row;
    switch (a_.update.rule) {
      case RowRule::sgd:
        return sgd(numbers_, width, gradient, value);
      case RowRule::adagrad:
        return adagrad(numbers_, width, gradient, value, of_row);
      default:
        break;
    }
    const bool of_columns = a_.update.rule == RowRule::adam;
    if constexpr (sizeof(Real) == sizeof(float)) {
      if (a_.bfloat16_moments) {
        uint16_t* first = static_cast<uint16_t*>(a_.moment1) + start;
        uint16_t* second = static_cast<uint16_t*>(a_.moment2) + start;
        read(width, first, moment1_);
        if (of_columns) read(width, second, moment2_);
        of_columns ? adam(numbers_, width, gradient, value, moment1_, moment2_)
                   : adam_row_moment(numbers_, width, gradient, value, moment1_, of_row);
        rounding_bits(a_.update.seed ^ kMomentStream, a_.update.step, row, width, bits_);
        write_stochastic(width, moment1_, bits_, first);
        if (of_columns) write_stochastic(width, moment2_, bits_, second);
        return;
      }
    }
    Real* first = static_cast<Real*>(a_.moment1) + start;
    of_columns ? adam(numbers_, width, gradient, value, first, static_cast<Real*>(a_.moment2) + start)
               : adam_row_moment(numbers_, width, gradient, value, first, of_row);
  }

  const RowUpdateArguments<Real>& a_;
  BlockSums block_sums_;
  const void* context_;
  RowBias<Real>* bias_;
  RowNumbers<Real> numbers_;
  Real *sum_, *block_, *value_, *moment1_, *moment2_;
  uint16_t* bits_;
  int64_t table_bytes_, moment_bytes_;
};

}  // namespace

void update_rows(const RowUpdateArguments<float>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<float>& workspace) {
  Updater<float>(a, block_sums, context, workspace).update(first, last);
}

void update_rows(const RowUpdateArguments<double>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<double>& workspace) {
  Updater<double>(a, block_sums, context, workspace).update(first, last);
}

void square_sums(const RowUpdateArguments<float>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<float>& workspace) {
  Updater<float>(a, block_sums, context, workspace).measure(first, last);
}

void square_sums(const RowUpdateArguments<double>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<double>& workspace) {
  Updater<double>(a, block_sums, context, workspace).measure(first, last);
}

}  // namespace loci::LOCI_LEVEL
