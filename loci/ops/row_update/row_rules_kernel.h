// What the rules of row_update.h do to one row, for kernel files alone. Legend: D width.
#pragma once

#include <stdint.h>

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

// NaN for an infinite second moment: its row would else stand still for ever.
template <class Real>
Real denominator_of(Real moment2, Real root, Real epsilon) {
  return root_of(moment2) * root + epsilon + (moment2 - moment2);
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
void update_adam(const RowNumbers<Real>& n, int64_t width, const Real* __restrict gradient, Real* __restrict value,
                 Real* __restrict moment1, Real* __restrict moment2) {
  for (int64_t d = 0; d < width; ++d) {
    const Real g = gradient[d] * n.factor;
    moment1[d] = moment1[d] * n.beta1 + g * n.rest1;
    moment2[d] = moment2[d] * n.beta2 + g * g * n.rest2;
    value[d] = value[d] * n.decay - moment1[d] * n.rate / denominator_of(moment2[d], n.root, n.epsilon);
  }
}

// `square`: mean(g^2) of the whole row.
template <class Real>
void update_adam_row_moment(const RowNumbers<Real>& n, int64_t width, const Real* __restrict gradient, Real square,
                            Real* __restrict value, Real* __restrict moment1, Real* __restrict moment2) {
  *moment2 = *moment2 * n.beta2 + square * n.rest2;
  const Real denominator = denominator_of(*moment2, n.root, n.epsilon);
  for (int64_t d = 0; d < width; ++d) {
    moment1[d] = moment1[d] * n.beta1 + gradient[d] * n.factor * n.rest1;
    value[d] = value[d] * n.decay - moment1[d] * n.rate / denominator;
  }
}

template <class Real>
void update_adagrad(const RowNumbers<Real>& n, int64_t width, const Real* __restrict gradient, Real square,
                    Real* __restrict value, Real* __restrict moment2) {
  *moment2 += square;
  const Real denominator = denominator_of(*moment2, Real{1}, n.epsilon);
  for (int64_t d = 0; d < width; ++d) {
    value[d] = value[d] * n.decay - gradient[d] * n.factor * n.rate / denominator;
  }
}

template <class Real>
void update_sgd(const RowNumbers<Real>& n, int64_t width, const Real* __restrict gradient, Real* __restrict value) {
  for (int64_t d = 0; d < width; ++d) value[d] = value[d] * n.decay - gradient[d] * n.factor * n.rate;
}

}  // namespace
}  // namespace loci::LOCI_LEVEL
