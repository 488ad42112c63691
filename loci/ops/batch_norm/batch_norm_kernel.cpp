#include "loci/ops/batch_norm/batch_norm_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

// Two sums of a group of features stay in registers for a block of tokens.
constexpr int64_t kGroup = 32, kBlock = 16;

float square_root(float x) {
  return __builtin_sqrtf(x);
}
double square_root(double x) {
  return __builtin_sqrt(x);
}

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

// Adds what add(token, feature, one, other) adds to the two sums of each feature: kBlock tokens in Real, the blocks in
// double.
template <typename Real, typename Add>
void add_up(int64_t tokens, int64_t features, double* one, double* other, const Add& add) {
  for (int64_t c = 0; c < features; ++c) one[c] = other[c] = 0;
  const auto group = [&](int64_t t, int64_t end, int64_t begin, auto size) {
    Real ones[kGroup] = {}, others[kGroup] = {};
    for (; t < end; ++t) {
      for (int64_t c = 0; c < size; ++c) add(t, begin + c, ones[c], others[c]);
    }
    for (int64_t c = 0; c < size; ++c) {
      one[begin + c] += static_cast<double>(ones[c]);
      other[begin + c] += static_cast<double>(others[c]);
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
  add_up<Real>(tokens, features, sum, square, [=](int64_t t, int64_t c, Real& one, Real& other) {
    const Real difference = real_of(x[t * features + c]) - origin[c];
    one += difference;
    other += difference * difference;
  });
}

template <typename Element, typename Real>
void normalise(const Element* __restrict x, const Real* __restrict mean, const Real* __restrict rest,
               const Real* __restrict factor, const Real* __restrict bias, int64_t tokens, int64_t features,
               Real* __restrict y) {
  for (int64_t t = 0; t < tokens; ++t) {
    const Element* __restrict from = x + t * features;
    Real* __restrict to = y + t * features;
    for (int64_t c = 0; c < features; ++c) to[c] = (real_of(from[c]) - mean[c] - rest[c]) * factor[c] + bias[c];
  }
}

template <typename Element, typename Real>
void apply(const Element* __restrict x, const Real* __restrict mean, const Real* __restrict variance,
           const Real* __restrict gain, const Real* __restrict bias, Real epsilon, int64_t tokens, int64_t features,
           Real* __restrict y, Real* __restrict room) {
  Real* __restrict scale = room;
  Real* __restrict shift = room + features;
  for (int64_t c = 0; c < features; ++c) {
    scale[c] = gain[c] / square_root(variance[c] + epsilon);
    shift[c] = bias[c] - mean[c] * scale[c];
  }
  for (int64_t t = 0; t < tokens; ++t) {
    const Element* __restrict from = x + t * features;
    Real* __restrict to = y + t * features;
    for (int64_t c = 0; c < features; ++c) to[c] = real_of(from[c]) * scale[c] + shift[c];
  }
}

template <typename Element, typename Real>
void gradient_sums(const Element* x, const Real* dy, const Real* mean, const Real* rest, int64_t tokens,
                   int64_t features, double* sum, double* product) {
  add_up<Real>(tokens, features, sum, product, [=](int64_t t, int64_t c, Real& one, Real& other) {
    const Real g = dy[t * features + c];
    one += g;
    other += g * (real_of(x[t * features + c]) - mean[c] - rest[c]);
  });
}

template <typename Element, typename Real>
void gradient(const Element* __restrict x, const Real* __restrict dy, const Real* __restrict mean,
              const Real* __restrict rest, const Real* __restrict factor, const Real* __restrict shift,
              const Real* __restrict slope, int64_t tokens, int64_t features, Element* __restrict dx) {
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t row = t * features;
    for (int64_t c = 0; c < features; ++c) {
      const Real centred = real_of(x[row + c]) - mean[c] - rest[c];
      put(factor[c] * (dy[row + c] - shift[c] - centred * slope[c]), dx[row + c]);
    }
  }
}

template <typename Element, typename Real>
constexpr BatchNormKernel<Element, Real> kernel = {sums<Element, Real>, normalise<Element, Real>, apply<Element, Real>,
                                                   gradient_sums<Element, Real>, gradient<Element, Real>};

}  // namespace

const BatchNormKernel<float, float> batch_norm_float32 = kernel<float, float>;
const BatchNormKernel<double, double> batch_norm_float64 = kernel<double, double>;
const BatchNormKernel<uint16_t, float> batch_norm_bfloat16 = kernel<uint16_t, float>;

}  // namespace loci::LOCI_LEVEL
