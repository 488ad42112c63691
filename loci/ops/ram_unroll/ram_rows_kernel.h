// A row: one number of each of the L samples of a block, in as many vectors as the level needs. For kernel files alone.
#pragma once

#include <math.h>
#include <stdint.h>

#include "loci/ops/ram_step/ram_machine_kernel.h"
#include "loci/ops/vector_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

constexpr int kRamParts = kRamLaneBytes / kVectorBytes;  // vectors of a row

template <class Real>
struct OfReal;
template <>
struct OfReal<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes), may_alias));
  typedef int32_t Integer __attribute__((vector_size(kVectorBytes), may_alias));
};
template <>
struct OfReal<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes), may_alias));
  typedef int64_t Integer __attribute__((vector_size(kVectorBytes), may_alias));
};

template <class Real>
struct Row {
  using Vector = typename OfReal<Real>::Vector;
  Vector part[kRamParts];
};

#define LOCI_PARTS _Pragma("GCC unroll 4") for (int p = 0; p < kRamParts; ++p)

template <class Real>
inline Row<Real> load(const Real* at) {
  Row<Real> row;
  LOCI_PARTS row.part[p] = reinterpret_cast<const typename Row<Real>::Vector*>(at)[p];
  return row;
}
template <class Real>
inline void store(Real* at, const Row<Real>& row) {
  LOCI_PARTS reinterpret_cast<typename Row<Real>::Vector*>(at)[p] = row.part[p];
}
template <class Real>
inline Row<Real> all(Real value) {
  Row<Real> row;
  LOCI_PARTS row.part[p] = value - typename Row<Real>::Vector{};  // x - 0 is x: only a broadcast remains
  return row;
}

template <class Real>
inline Row<Real> operator+(const Row<Real>& a, const Row<Real>& b) {
  Row<Real> row;
  LOCI_PARTS row.part[p] = a.part[p] + b.part[p];
  return row;
}
template <class Real>
inline Row<Real> operator-(const Row<Real>& a, const Row<Real>& b) {
  Row<Real> row;
  LOCI_PARTS row.part[p] = a.part[p] - b.part[p];
  return row;
}
template <class Real>
inline Row<Real> operator*(const Row<Real>& a, const Row<Real>& b) {
  Row<Real> row;
  LOCI_PARTS row.part[p] = a.part[p] * b.part[p];
  return row;
}
template <class Real>
inline Row<Real> operator/(const Row<Real>& a, const Row<Real>& b) {
  Row<Real> row;
  LOCI_PARTS row.part[p] = a.part[p] / b.part[p];
  return row;
}

// a * b + c, in one rounding where the level has it.
#if defined(__AVX512F__)
inline __m512 multiply_add(__m512 a, __m512 b, __m512 c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline __m512d multiply_add(__m512d a, __m512d b, __m512d c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__FMA__)
inline __m256 multiply_add(__m256 a, __m256 b, __m256 c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline __m256d multiply_add(__m256d a, __m256d b, __m256d c) {
  return _mm256_fmadd_pd(a, b, c);
}
#else
template <class Vector>
inline Vector multiply_add(Vector a, Vector b, Vector c) {
  return a * b + c;
}
#endif

template <class Real>
inline Row<Real> fma(const Row<Real>& a, const Row<Real>& b, const Row<Real>& c) {
  Row<Real> row;
  LOCI_PARTS row.part[p] = multiply_add(a.part[p], b.part[p], c.part[p]);
  return row;
}

// b where both are equal or one is NaN: NaN in b stays, so that the results show it.
template <class Real>
inline Row<Real> larger(const Row<Real>& a, const Row<Real>& b) {
  Row<Real> row;
  LOCI_PARTS row.part[p] = a.part[p] > b.part[p] ? a.part[p] : b.part[p];
  return row;
}
template <class Real>
inline Row<Real> smaller(const Row<Real>& a, const Row<Real>& b) {
  Row<Real> row;
  LOCI_PARTS row.part[p] = a.part[p] < b.part[p] ? a.part[p] : b.part[p];
  return row;
}
// a where x > 0, else 0.
template <class Real>
inline Row<Real> where_positive(const Row<Real>& x, const Row<Real>& a) {
  Row<Real> row;
  LOCI_PARTS row.part[p] = x.part[p] > 0 ? a.part[p] : typename Row<Real>::Vector{};
  return row;
}

// ((y x + c[0]) x + c[1]) ...
template <class Vector, class Real, int kCount>
inline Vector horner(Vector y, Vector x, const Real (&c)[kCount]) {
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) y = multiply_add(y, x, Vector{} + c[i]);
  return y;
}

// e^x for x in -87 .. 88 (float64: -708 .. 709), clamped to it: 2^n times a Taylor polynomial on |r| <= ln(2) / 2.
inline void exponential_of(OfReal<float>::Vector& x) {
  using Vector = OfReal<float>::Vector;
  using Integer = OfReal<float>::Integer;
  x = x < -87.0F ? Vector{} - 87.0F : x;  // NaN stays
  x = x > 88.0F ? Vector{} + 88.0F : x;
  const Vector magic = Vector{} + 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Vector t = multiply_add(x, Vector{} + 1.44269504F, magic);
  const Vector n = t - magic;
  const Vector r = multiply_add(n, Vector{} - -2.12194440e-4F, multiply_add(n, Vector{} - 0.693359375F, x));
  Vector y = Vector{} + 1.0F / 5040;
  constexpr float c[] = {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F};
  y = horner(y, r, c);
  x = y * reinterpret_cast<Vector>((reinterpret_cast<Integer>(t) << 23) + 0x3f800000);
}
inline void exponential_of(OfReal<double>::Vector& x) {
  using Vector = OfReal<double>::Vector;
  using Integer = OfReal<double>::Integer;
  x = x < -708.0 ? Vector{} - 708.0 : x;
  x = x > 709.0 ? Vector{} + 709.0 : x;
  const Vector magic = Vector{} + 6755399441055744.0;  // 1.5 * 2^52
  const Vector t = multiply_add(x, Vector{} + 1.4426950408889634, magic);
  const Vector n = t - magic;
  const Vector r =
      multiply_add(n, Vector{} - 1.90821492927058770002e-10, multiply_add(n, Vector{} - 6.93147180369123816490e-01, x));
  Vector y = Vector{} + 1.0 / 6227020800.0;
  constexpr double c[] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
      1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  y = horner(y, r, c);
  x = y * reinterpret_cast<Vector>((reinterpret_cast<Integer>(t) << 52) + 0x3ff0000000000000);
}

// ln x for positive normal x: the exponent, and 2 artanh(s) as a series on |s| <= 0.172.
inline void logarithm_of(OfReal<float>::Vector& x) {
  using Vector = OfReal<float>::Vector;
  using Integer = OfReal<float>::Integer;
  const Integer bits = reinterpret_cast<Integer>(x) - 0x3f3504f3;  // from sqrt(1/2)
  const Integer exponent = bits >> 23;
  const Vector m = reinterpret_cast<Vector>((bits & 0x007fffff) + 0x3f3504f3);
  const Vector s = (m - 1.0F) / (m + 1.0F);
  const Vector square = s * s;
  Vector y = Vector{} + 2.0F / 9;
  constexpr float c[] = {2.0F / 7, 2.0F / 5, 2.0F / 3, 2.0F};
  y = horner(y, square, c);
  x = multiply_add(__builtin_convertvector(exponent, Vector), Vector{} + 0.69314718F, y * s);
}
inline void logarithm_of(OfReal<double>::Vector& x) {
  using Vector = OfReal<double>::Vector;
  using Integer = OfReal<double>::Integer;
  const Integer bits = reinterpret_cast<Integer>(x) - 0x3fe6a09e667f3bcd;
  const Integer exponent = bits >> 52;
  const Vector m = reinterpret_cast<Vector>((bits & 0x000fffffffffffff) + 0x3fe6a09e667f3bcd);
  const Vector s = (m - 1.0) / (m + 1.0);
  const Vector square = s * s;
  Vector y = Vector{} + 2.0 / 21;
  constexpr double c[] = {2.0 / 19, 2.0 / 17, 2.0 / 15, 2.0 / 13, 2.0 / 11, 2.0 / 9, 2.0 / 7, 2.0 / 5, 2.0 / 3, 2.0};
  y = horner(y, square, c);
  x = multiply_add(__builtin_convertvector(exponent, Vector), Vector{} + 0.69314718055994530942, y * s);
}

template <class Real>
inline Row<Real> exponential(Row<Real> row) {
  LOCI_PARTS exponential_of(row.part[p]);
  return row;
}
template <class Real>
inline Row<Real> logarithm(Row<Real> row) {
  LOCI_PARTS logarithm_of(row.part[p]);
  return row;
}
// 1 / (1 + e^-x), x clamped to -30 .. 30.
template <class Real>
inline Row<Real> sigmoid(const Row<Real>& x) {
  const Row<Real> one = all(Real(1));
  return one / (one + exponential(all(Real(0)) - smaller(all(Real(30)), larger(all(Real(-30)), x))));
}

template <class Real>
inline Row<Real> clipped(const Row<Real>& x, Real clip) {
  return smaller(all(clip), larger(all(-clip), x));
}

// True when every lane is at least `least`; NaN is not.
template <class Real>
inline bool at_least(const Row<Real>& x, Real least) {
  alignas(kRamLaneBytes) Real lane[kRamLaneBytes / sizeof(Real)];
  store(lane, x);
  bool good = true;
  for (const Real value : lane) good = good && value >= least;
  return good;
}

#undef LOCI_PARTS

}  // namespace
}  // namespace loci::LOCI_LEVEL
