#include "loci/ops/batch_norm/batch_norm_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

// Two sums of a group of features stay in registers for a block of tokens.
constexpr int64_t kGroup = 32, kBlock = 16;

float real_of(float x) {
  return x;
}
double real_of(double x) {
  return x;
}
float real_of(uint16_t bfloat16) {
  const uint32_t bits = uint32_t{bfloat16} << 16;
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

void put(float x, float& to) {
  to = x;
}
void put(double x, double& to) {
  to = x;
}
void put(float real, uint16_t& bfloat16) {  // to the nearest, ties to even
  uint32_t bits;
  __builtin_memcpy(&bits, &real, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  bfloat16 = static_cast<uint16_t>(real == real ? rounded : 0x7fc0);
}

template <int64_t value>
struct Constant {
  constexpr operator int64_t() const { return value; }
};

// Two sums of each feature over the tokens: add(token, feature, sum1, sum2) adds to both. Sums of kBlock tokens are in
// Real, those of blocks in double.
template <typename Real, typename Add>
void add_up(int64_t tokens, int64_t features, double* sum1, double* sum2, const Add& add) {
  for (int64_t c = 0; c < features; ++c) sum1[c] = sum2[c] = 0;
  const auto group = [&](int64_t t, int64_t end, int64_t begin, auto size) {
    Real part1[kGroup] = {}, part2[kGroup] = {};
    for (; t < end; ++t) {
      for (int64_t c = 0; c < size; ++c) add(t, begin + c, part1[c], part2[c]);
    }
    for (int64_t c = 0; c < size; ++c) {
      sum1[begin + c] += static_cast<double>(part1[c]);
      sum2[begin + c] += static_cast<double>(part2[c]);
    }
  };
  for (int64_t t = 0; t < tokens; t += kBlock) {
    const int64_t end = t + kBlock < tokens ? t + kBlock : tokens;
    int64_t c = 0;
    for (; c + kGroup <= features; c += kGroup) group(t, end, c, Constant<kGroup>{});
    if (c < features) group(t, end, c, features - c);
  }
}

template <typename Element, typename Real>
void sums(const Element* x, const Real* origin, int64_t tokens, int64_t features, double* sum, double* square) {
  add_up<Real>(tokens, features, sum, square, [=](int64_t t, int64_t c, Real& sum1, Real& sum2) {
    const Real difference = real_of(x[t * features + c]) - origin[c];
    sum1 += difference;
    sum2 += difference * difference;
  });
}

template <typename Element, typename Real>
void normalise(const Element* __restrict x, const Real* __restrict mean, const Real* __restrict low,
               const Real* __restrict factor, const Real* __restrict bias, int64_t tokens, int64_t features,
               Real* __restrict y) {
  for (int64_t t = 0; t < tokens; ++t) {
    const Element* __restrict from = x + t * features;
    Real* __restrict to = y + t * features;
    for (int64_t c = 0; c < features; ++c) to[c] = (real_of(from[c]) - mean[c] - low[c]) * factor[c] + bias[c];
  }
}

void scales(const double* __restrict variance, double epsilon, int64_t features, double* __restrict scale) {
  for (int64_t c = 0; c < features; ++c) scale[c] = 1 / __builtin_sqrt(variance[c] + epsilon);
}

template <typename Element, typename Real>
void gradient_sums(const Element* x, const Real* dy, const Real* mean, const Real* low, int64_t tokens,
                   int64_t features, double* sum, double* product) {
  add_up<Real>(tokens, features, sum, product, [=](int64_t t, int64_t c, Real& sum1, Real& sum2) {
    const Real g = dy[t * features + c];
    sum1 += g;
    sum2 += g * (real_of(x[t * features + c]) - mean[c] - low[c]);
  });
}

template <typename Element, typename Real>
void gradient(const Element* __restrict x, const Real* __restrict dy, const Real* __restrict mean,
              const Real* __restrict low, const Real* __restrict factor, const Real* __restrict shift,
              const Real* __restrict slope, int64_t tokens, int64_t features, Element* __restrict dx) {
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t row = t * features;
    for (int64_t c = 0; c < features; ++c) {
      const Real centred = real_of(x[row + c]) - mean[c] - low[c];
      put(factor[c] * (dy[row + c] - shift[c] - centred * slope[c]), dx[row + c]);
    }
  }
}

template <typename Element, typename Real>
constexpr BatchNormFunctions<Element, Real> functions = {sums<Element, Real>, scales, normalise<Element, Real>,
                                                         gradient_sums<Element, Real>, gradient<Element, Real>};

}  // namespace

const BatchNormKernel batch_norm_kernel = {functions<double, double>, functions<float, float>,
                                           functions<uint16_t, float>};

}  // namespace loci::LOCI_LEVEL
