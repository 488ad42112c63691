#include "loci/ops/row_update/row_update_kernel.h"

#include <math.h>

namespace loci::LOCI_LEVEL {
namespace {

float root_of(float x) { return __builtin_sqrtf(x); }
double root_of(double x) { return __builtin_sqrt(x); }

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

float widened(uint16_t row) { return float_of(static_cast<uint32_t>(row) << 16); }

// To nearest, ties to even; any NaN becomes the usual quiet one.
uint16_t narrowed(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>(x == x ? nearest : 0x7fc0);
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
    const bool finite = (x & 0x7f800000) != 0x7f800000;
    row[d] = finite ? static_cast<uint16_t>((x + bits[d]) >> 16) : narrowed(value[d]);
  }
}

// Eight blocks of Philox 4x32-10 side by side, as base/random.h defines one: 64 columns.
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

}  // namespace

extern const RowUpdateKernel<float> row_update_float = {adam, adam_row_moment, adagrad, sgd, square_sum};
extern const RowUpdateKernel<double> row_update_double = {adam, adam_row_moment, adagrad, sgd, square_sum};
extern const Bfloat16Kernel row_bfloat16 = {read, read_master, write_nearest, write_stochastic, rounding_bits};

}  // namespace loci::LOCI_LEVEL
