// Products of dense layers on blocks, for kernel files alone. Legend: J outputs, K inputs, L lanes, T steps.
#pragma once

#include "loci/ops/ram_unroll/ram_rows_kernel.h"
#include "loci/ops/ram_unroll/ram_unroll_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

constexpr int kProductRows = 12 / kRamParts;  // 12 vectors of sums, and registers left for an input row and a broadcast

// out[n] = start[n] + sum over i < count of w[n * across + i * along] * x[i], n < kRows.
template <int kRows, class Real>
inline void product_rows(const Real* w, int64_t across, int64_t along, int64_t count, const Real* x, const Real* start,
                         Real* out) {
  constexpr int64_t L = ram_lanes<Real>();
  Row<Real> sum[kRows];
#pragma GCC unroll 12
  for (int n = 0; n < kRows; ++n) sum[n] = all(start == nullptr ? Real(0) : start[n]);
  for (int64_t i = 0; i < count; ++i, w += along, x += L) {
    const Row<Real> row = load(x);
#pragma GCC unroll 12
    for (int n = 0; n < kRows; ++n) sum[n] = fma(all(w[n * across]), row, sum[n]);
  }
#pragma GCC unroll 12
  for (int n = 0; n < kRows; ++n) store(out + n * L, sum[n]);
}
template <class Real>
inline void product(const Real* w, int64_t rows, int64_t across, int64_t along, int64_t count, const Real* x,
                    const Real* start, Real* out) {
  constexpr int64_t L = ram_lanes<Real>();
  int64_t n = 0;
  const auto from = [&](int64_t n) { return start == nullptr ? start : start + n; };
  for (; n + kProductRows <= rows; n += kProductRows) {
    product_rows<kProductRows>(w + n * across, across, along, count, x, from(n), out + n * L);
  }
  for (; n < rows; ++n) product_rows<1>(w + n * across, across, along, count, x, from(n), out + n * L);
}

// y [J, L] = weight x + bias, x [K, L].
template <class Real>
inline void layer_forward(const RamLayer& layer, const Real* parameters, const Real* x, Real* y) {
  const Real* weight = parameters + layer.offset;
  product(weight, layer.outputs, layer.inputs, int64_t{1}, layer.inputs, x, weight + layer.outputs * layer.inputs, y);
}
// dx [K, L] = weight^T dy.
template <class Real>
inline void layer_backward(const RamLayer& layer, const Real* parameters, const Real* dy, Real* dx) {
  product<Real>(parameters + layer.offset, layer.inputs, int64_t{1}, layer.inputs, layer.outputs, dy, nullptr, dx);
}

// x [K, L] as [L, padded], zeros beyond K.
template <class Real>
inline void transpose(const Real* x, int64_t inputs, int64_t padded, Real* to) {
  constexpr int64_t L = ram_lanes<Real>();
  for (int64_t lane = 0; lane < L; ++lane) {
    for (int64_t k = 0; k < inputs; ++k) to[lane * padded + k] = x[k * L + lane];
    for (int64_t k = inputs; k < padded; ++k) to[lane * padded + k] = 0;
  }
}

// gradient[n, k] = sum over steps and lanes, in this order, of dy[t, n, lane] * x[t, lane, k], for kRows rows and the
// kVectors vectors of k.
template <int kRows, int kVectors, class Real>
inline void weight_gradient_tile(const Real* dy, int64_t dy_step, const Real* x, int64_t padded, int64_t steps,
                                 Real* gradient) {
  using Vector = typename OfReal<Real>::Vector;
  constexpr int64_t L = ram_lanes<Real>();
  Vector sum[kRows][kVectors] = {};
  for (int64_t t = 0; t < steps; ++t) {
    const Real* from = dy + t * dy_step;
    for (int64_t lane = 0; lane < L; ++lane, x += padded) {
      Vector value[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) value[v] = reinterpret_cast<const Vector*>(x)[v];
#pragma GCC unroll 12
      for (int n = 0; n < kRows; ++n) {
        const Vector slope = from[n * L + lane] - Vector{};
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[n][v] = multiply_add(slope, value[v], sum[n][v]);
      }
    }
  }
#pragma GCC unroll 12
  for (int n = 0; n < kRows; ++n) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) reinterpret_cast<Vector*>(gradient + n * padded)[v] = sum[n][v];
  }
}

template <class Real>
inline void weight_gradient(const RamLayer& layer, const Real* dy, const Real* x, int64_t steps, Real* gradient) {
  constexpr int64_t L = ram_lanes<Real>();
  constexpr int kVectors = kRamParts < 2 ? 1 : 2;
  constexpr int64_t kWide = kVectors * kVectorBytes / static_cast<int64_t>(sizeof(Real));
  constexpr int kRows = kVectorBytes == 16 ? 3 : kVectors == 1 ? 12 : 6;
  const int64_t J = layer.outputs;
  gradient += layer.gradient;
  for (int64_t k = 0; k < layer.padded; k += kWide) {
    int64_t n = 0;
    for (; n + kRows <= J; n += kRows) {
      weight_gradient_tile<kRows, kVectors>(dy + n * L, J * L, x + k, layer.padded, steps,
                                            gradient + n * layer.padded + k);
    }
    for (; n < J; ++n) {
      weight_gradient_tile<1, kVectors>(dy + n * L, J * L, x + k, layer.padded, steps, gradient + n * layer.padded + k);
    }
  }
  Real* bias = gradient + J * layer.padded;
  for (int64_t n = 0; n < J; ++n) {
    Row<Real> sum = all(Real(0));
    for (int64_t t = 0; t < steps; ++t) sum = sum + load(dy + (t * J + n) * L);
    alignas(kRamLaneBytes) Real lane[kRamLaneBytes / sizeof(Real)];
    store(lane, sum);
    bias[n] = 0;
    for (const Real value : lane) bias[n] += value;
  }
}

}  // namespace
}  // namespace loci::LOCI_LEVEL
