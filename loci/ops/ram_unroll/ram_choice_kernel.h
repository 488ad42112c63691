// Choices of a circuit on blocks: softmax of logits and mixtures of distributions, with their adjoints. For kernel
// files alone.
//
// Legend: M values and cells, L lanes. Every number is a row of L lanes.
#pragma once

#include "loci/ops/ram_unroll/ram_rows_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

template <class Real>
inline void copy(const Real* from, int64_t rows, Real* to) {
  constexpr int64_t L = ram_lanes<Real>();
  for (int64_t i = 0; i < rows; ++i) store(to + i * L, load(from + i * L));
}
template <class Real>
inline void set_zero(Real* to, int64_t rows) {
  constexpr int64_t L = ram_lanes<Real>();
  for (int64_t i = 0; i < rows; ++i) store(to + i * L, all(Real(0)));
}
template <class Real>
inline void clip_rows(Real* x, int64_t rows, Real clip) {
  constexpr int64_t L = ram_lanes<Real>();
  if (!(clip < Real(INFINITY))) return;
  for (int64_t i = 0; i < rows; ++i) store(x + i * L, clipped(load(x + i * L), clip));
}
template <class Real>
inline Row<Real> sum_of(const Real* x, int64_t M) {
  constexpr int64_t L = ram_lanes<Real>();
  Row<Real> sum = all(Real(0));
  for (int64_t c = 0; c < M; ++c) sum = sum + load(x + c * L);
  return sum;
}

// out[m] = sum over v < count of weight[v] * from[v, m].
template <int kValues, class Real>
inline void mix_values(const Real* weight, const Real* from, int64_t count, int64_t stride, Real* out) {
  constexpr int64_t L = ram_lanes<Real>();
  Row<Real> sum[kValues];
  for (int m = 0; m < kValues; ++m) sum[m] = all(Real(0));
  for (int64_t v = 0; v < count; ++v) {
    const Row<Real> w = load(weight + v * L);
#pragma GCC unroll 4
    for (int m = 0; m < kValues; ++m) sum[m] = fma(w, load(from + (v * stride + m) * L), sum[m]);
  }
#pragma GCC unroll 4
  for (int m = 0; m < kValues; ++m) store(out + m * L, sum[m]);
}
template <class Real>
inline void mix(const Real* weight, const Real* from, int64_t count, int64_t M, Real* out) {
  constexpr int64_t L = ram_lanes<Real>();
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) mix_values<4>(weight, from + m * L, count, M, out + m * L);
  for (; m < M; ++m) mix_values<1>(weight, from + m * L, count, M, out + m * L);
}

// The adjoint of mix for g = gradient of out: gradient_weight[v] = <from[v], g>, gradient_from[v] += weight[v] * g.
template <class Real>
inline void mix_adjoint(const Real* weight, const Real* from, int64_t count, int64_t M, const Real* g,
                        Real* gradient_weight, Real* gradient_from) {
  constexpr int64_t L = ram_lanes<Real>();
  for (int64_t v = 0; v < count; ++v) {
    const Row<Real> w = load(weight + v * L);
    Row<Real> dot = all(Real(0));
    for (int64_t m = 0; m < M; ++m) {
      const Row<Real> slope = load(g + m * L);
      dot = fma(load(from + (v * M + m) * L), slope, dot);
      Real* sum = gradient_from + (v * M + m) * L;
      store(sum, fma(w, slope, load(sum)));
    }
    store(gradient_weight + v * L, dot);
  }
}

// softmax of `count` logits. Adds its entropy to `entropy`, unless that is null.
template <class Real>
inline void softmax(const Real* logit, int64_t count, Real* weight, Row<Real>* entropy) {
  constexpr int64_t L = ram_lanes<Real>();
  Row<Real> top = load(logit);
  for (int64_t v = 1; v < count; ++v) top = larger(top, load(logit + v * L));
  Row<Real> sum = all(Real(0));
  Row<Real> moment = all(Real(0));
  for (int64_t v = 0; v < count; ++v) {
    const Row<Real> below = load(logit + v * L) - top;
    const Row<Real> e = exponential(below);
    sum = sum + e;
    if (entropy != nullptr) moment = fma(e, below, moment);
    store(weight + v * L, e);
  }
  const Row<Real> share = all(Real(1)) / sum;
  for (int64_t v = 0; v < count; ++v) store(weight + v * L, load(weight + v * L) * share);
  if (entropy != nullptr) *entropy = *entropy + logarithm(sum) - moment * share;
}

// gradient[v] comes as that of the weight and leaves as that of the logit. With a bonus the loss contains
// -bonus * entropy too.
template <class Real>
inline void softmax_adjoint(const Real* logit, const Real* weight, int64_t count, const Row<Real>* bonus,
                            Real* gradient) {
  constexpr int64_t L = ram_lanes<Real>();
  Row<Real> dot = all(Real(0));
  Row<Real> top = load(logit);
  for (int64_t v = 0; v < count; ++v) dot = fma(load(weight + v * L), load(gradient + v * L), dot);
  if (bonus == nullptr) {
    for (int64_t v = 0; v < count; ++v) {
      store(gradient + v * L, load(weight + v * L) * (load(gradient + v * L) - dot));
    }
    return;
  }
  for (int64_t v = 1; v < count; ++v) top = larger(top, load(logit + v * L));
  Row<Real> moment = all(Real(0));
  for (int64_t v = 0; v < count; ++v) moment = fma(load(weight + v * L), load(logit + v * L) - top, moment);
  for (int64_t v = 0; v < count; ++v) {
    const Row<Real> own = load(logit + v * L) - top - moment;
    store(gradient + v * L, load(weight + v * L) * fma(*bonus, own, load(gradient + v * L) - dot));
  }
}

// Calls f(offset, length) for each of the circuit's distributions, in the order of the logits.
template <class Function>
inline void for_each_choice(const RamMachine& machine, const Function& f) {
  int64_t offset = 0;
  for (int64_t i = 0; i < machine.modules; ++i) {
    for (int32_t operand = 0; operand < machine.module[i].operands; ++operand) {
      f(offset, machine.registers + i);
      offset += machine.registers + i;
    }
  }
  for (int64_t r = 0; r < machine.registers; ++r) {
    f(offset, machine.registers + machine.modules);
    offset += machine.registers + machine.modules;
  }
}

}  // namespace
}  // namespace loci::LOCI_LEVEL
