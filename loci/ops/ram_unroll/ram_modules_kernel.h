// The modules of a circuit on distributions, with their adjoints. For kernel files alone.
//
// Legend: M values and cells, L lanes. A distribution is [M, L], a tape [M, M, L] with a row a cell.
//
// Estimate: about 10 M^2 flops of a sample for the standard modules, twice that for the adjoints.
#pragma once

#include "loci/ops/ram_unroll/ram_choice_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

// Circular convolution (kSign -1) and correlation (kSign 1) with y, which lies twice in `twice`:
// out[c] = sum over b < M of x[b] * y[(c + kSign * b) mod M].
template <int kSign, int kValues, class Real>
inline void convolve_values(const Real* x, const Real* twice, int64_t M, Real* out) {
  constexpr int64_t L = ram_lanes<Real>();
  const Real* y = kSign > 0 ? twice : twice + M * L;
  Row<Real> sum[kValues];
  for (int c = 0; c < kValues; ++c) sum[c] = all(Real(0));
  for (int64_t b = 0; b < M; ++b) {
    const Row<Real> w = load(x + b * L);
#pragma GCC unroll 4
    for (int c = 0; c < kValues; ++c) sum[c] = fma(w, load(y + (c + kSign * b) * L), sum[c]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < kValues; ++c) store(out + c * L, sum[c]);
}
template <int kSign, class Real>
inline void convolve(const Real* x, const Real* twice, int64_t M, Real* out) {
  constexpr int64_t L = ram_lanes<Real>();
  int64_t c = 0;
  for (; c + 4 <= M; c += 4) convolve_values<kSign, 4>(x, twice + c * L, M, out + c * L);
  for (; c < M; ++c) convolve_values<kSign, 1>(x, twice + c * L, M, out + c * L);
}

template <class Real>
class ModuleAlgebra {
 public:
  static constexpr int64_t L = ram_lanes<Real>();

  // The adjoints write gradient_a and gradient_b. Scratch: kRamModuleScratch distributions.
  ModuleAlgebra(const RamMachine& machine, Real* gradient_a, Real* gradient_b, Real* scratch)
      : M(machine.values),
        renormalises_(machine.renormalise),
        gradient_a_(gradient_a),
        gradient_b_(gradient_b),
        scratch_(scratch) {}

  // False after a sum below 1/2 or NaN was divided by.
  bool sound() const { return sound_; }

  void renormalise(Real* x) {
    if (!renormalises_) return;
    const Row<Real> sum = sum_of(x, M);
    sound_ = sound_ && at_least(sum, Real(0.5));
    const Row<Real> share = all(Real(1)) / sum;
    for (int64_t c = 0; c < M; ++c) store(x + c * L, load(x + c * L) * share);
  }

  // out = module(a, b); WRITE is write().
  void evaluate(const RamStepModule& module, const Real* a, const Real* b, const Real* tape, Real* out) {
    switch (module.operation) {
      case kRamRead:
        mix(a, tape, M, M, out);
        return renormalise(out);
      case kRamZero:
      case kRamOne:
      case kRamTwo:
        set_zero(out, M);
        return store(out + (module.operation - kRamZero) * L, all(Real(1)));
      case kRamIncrement:
        return rotate_up(a, M, out);
      case kRamDecrement:
        return rotate_down(a, M, out);
      case kRamAdd:
        convolve<-1>(b, twice(a, M, scratch_), M, out);
        return renormalise(out);
      case kRamSubtract:
        convolve<1>(b, twice(a, M, scratch_), M, out);
        return renormalise(out);
      case kRamLess:
      case kRamLessEqual:
        return less(module.operation == kRamLess, a, b, out);
      case kRamEqual:
        return equal(a, b, out);
      case kRamMinimum:
      case kRamMaximum:
        return extreme(module.operation == kRamMinimum, a, b, out);
      default:
        return look_up(module, a, b, out);
    }
  }

  // next_i = (1 - p_i) tape_i + p_i a.
  void write(const Real* pointer, const Real* value, const Real* tape, Real* next) const {
    for (int64_t i = 0; i < M; ++i) {
      const Row<Real> p = load(pointer + i * L);
      for (int64_t c = 0; c < M; ++c) {
        const Row<Real> old = load(tape + (i * M + c) * L);
        store(next + (i * M + c) * L, fma(p, load(value + c * L) - old, old));
      }
    }
  }
  void write_adjoint(const Real* pointer, const Real* value, const Real* tape, const Real* g, Real* gradient_tape) {
    copy(g, M, gradient_b_);
    for (int64_t i = 0; i < M; ++i) {
      const Row<Real> p = load(pointer + i * L);
      const Row<Real> rest = all(Real(1)) - p;
      Row<Real> slope = all(Real(0));
      for (int64_t c = 0; c < M; ++c) {
        Real* old = gradient_tape + (i * M + c) * L;
        const Row<Real> d = load(old);
        slope = fma(d, load(value + c * L) - load(tape + (i * M + c) * L), slope);
        store(gradient_b_ + c * L, fma(p, d, load(gradient_b_ + c * L)));
        store(old, rest * d);
      }
      store(gradient_a_ + i * L, slope);
    }
  }

  // gradient_a and gradient_b from the gradient g of the output. READ also adds to the gradient of the tape.
  void adjoint(const RamStepModule& module, const Real* a, const Real* b, const Real* tape, const Real* g,
               Real* gradient_tape) {
    switch (module.operation) {
      case kRamRead:
        return mix_adjoint(a, tape, M, M, g, gradient_a_, gradient_tape);
      case kRamIncrement:
        return rotate_down(g, M, gradient_a_);
      case kRamDecrement:
        return rotate_up(g, M, gradient_a_);
      case kRamAdd:
        twice(g, M, scratch_);
        convolve<1>(b, scratch_, M, gradient_a_);
        return convolve<1>(a, scratch_, M, gradient_b_);
      case kRamSubtract:
        convolve<-1>(b, twice(g, M, scratch_), M, gradient_a_);
        return convolve<1>(g, twice(a, M, scratch_), M, gradient_b_);
      case kRamLess:
      case kRamLessEqual:
        return less_adjoint(module.operation == kRamLess, a, b, g);
      case kRamEqual:
        return equal_adjoint(a, b, g);
      case kRamMinimum:
      case kRamMaximum:
        extreme_adjoint(module.operation == kRamMinimum, b, g, gradient_a_);
        return extreme_adjoint(module.operation == kRamMinimum, a, g, gradient_b_);
      default:
        return lookup_adjoint(module, a, b, g);
    }
  }

 private:
  // out[c] = x[c - 1 mod M], the distribution of a number plus 1.
  static void rotate_up(const Real* x, int64_t M, Real* out) {
    copy(x, M - 1, out + L);
    copy(x + (M - 1) * L, 1, out);
  }
  static void rotate_down(const Real* x, int64_t M, Real* out) {
    copy(x + L, M - 1, out);
    copy(x, 1, out + (M - 1) * L);
  }
  static Real* twice(const Real* x, int64_t M, Real* to) {
    copy(x, M, to);
    copy(x, M, to + M * L);
    return to;
  }

  enum class Side { below, above };
  // out[c] = sum of x[e] over e < c, or over e > c; with_own adds x[c].
  static void sums(Side side, const Real* x, int64_t M, bool with_own, Real* out) {
    const int64_t step = side == Side::below ? L : -L, first = side == Side::below ? 0 : (M - 1) * L;
    x += first;
    out += first;
    Row<Real> sum = all(Real(0));
    for (int64_t c = 0; c < M; ++c, x += step, out += step) {
      const Row<Real> next = sum + load(x);
      store(out, with_own ? next : sum);
      sum = next;
    }
  }
  Row<Real> dot(const Real* x, const Real* y) const {
    Row<Real> sum = all(Real(0));
    for (int64_t c = 0; c < M; ++c) sum = fma(load(x + c * L), load(y + c * L), sum);
    return sum;
  }

  // P(min = c) = A_c G_B(c) + B_c G_A(c) - A_c B_c with G the sums from c up; max with the sums up to c.
  void extreme(bool minimum, const Real* a, const Real* b, Real* out) {
    Real *of_a = scratch_, *of_b = scratch_ + M * L;
    const Side side = minimum ? Side::above : Side::below;
    sums(side, a, M, true, of_a);
    sums(side, b, M, true, of_b);
    for (int64_t c = 0; c < M; ++c) {
      const Row<Real> x = load(a + c * L), y = load(b + c * L);
      store(out + c * L, x * load(of_b + c * L) + y * (load(of_a + c * L) - x));
    }
    if (!renormalises_) return;
    for (int64_t c = 0; c < M; ++c) store(out + c * L, larger(all(Real(0)), load(out + c * L)));
    renormalise(out);
  }

  void less(bool strict, const Real* a, const Real* b, Real* out) {
    Real* summed = scratch_;
    set_zero(out, M);
    sums(Side::above, b, M, !strict, summed);
    store(out + L, dot(a, summed));
    sums(Side::below, b, M, strict, summed);
    store(out, dot(a, summed));
  }

  void equal(const Real* a, const Real* b, Real* out) const {
    set_zero(out, M);
    const Row<Real> same = dot(a, b);
    const Row<Real> different = sum_of(a, M) * sum_of(b, M) - same;
    store(out + L, same);
    store(out, renormalises_ ? larger(all(Real(0)), different) : different);
  }

  void look_up(const RamStepModule& module, const Real* a, const Real* b, Real* out) {
    set_zero(out, M);
    for (int64_t i = 0; i < (module.operands > 0 ? M : 1); ++i) {
      const Row<Real> left = module.operands > 0 ? load(a + i * L) : all(Real(1));
      for (int64_t j = 0; j < (module.operands > 1 ? M : 1); ++j) {
        Real* value = out + module.lookup[i * M + j] * L;
        const Row<Real> right = module.operands > 1 ? load(b + j * L) : all(Real(1));
        store(value, fma(left, right, load(value)));
      }
    }
    renormalise(out);
  }

  void less_adjoint(bool strict, const Real* a, const Real* b, const Real* g) {
    const Row<Real> one = load(g + L), zero = load(g);
    Real *when_one = scratch_, *when_zero = scratch_ + M * L;
    sums(Side::above, b, M, !strict, when_one);
    sums(Side::below, b, M, strict, when_zero);
    blend(one, when_one, zero, when_zero, gradient_a_);
    sums(Side::below, a, M, !strict, when_one);
    sums(Side::above, a, M, strict, when_zero);
    blend(one, when_one, zero, when_zero, gradient_b_);
  }

  void equal_adjoint(const Real* a, const Real* b, const Real* g) {
    const Row<Real> zero = load(g), step = load(g + L) - zero;
    const Row<Real> of_a = zero * sum_of(a, M), of_b = zero * sum_of(b, M);
    for (int64_t c = 0; c < M; ++c) {
      store(gradient_a_ + c * L, fma(step, load(b + c * L), of_b));
      store(gradient_b_ + c * L, fma(step, load(a + c * L), of_a));
    }
  }

  void blend(const Row<Real>& x, const Real* a, const Row<Real>& y, const Real* b, Real* out) const {
    for (int64_t c = 0; c < M; ++c) store(out + c * L, fma(x, load(a + c * L), y * load(b + c * L)));
  }

  // Of min to one operand, the other being `other`: g_c S(c) + sum over e <= c of g_e other_e; max the other way round.
  void extreme_adjoint(bool minimum, const Real* other, const Real* g, Real* out) {
    Real *beyond = scratch_, *product = scratch_ + M * L, *summed = scratch_ + 2 * M * L;
    sums(minimum ? Side::above : Side::below, other, M, false, beyond);
    for (int64_t c = 0; c < M; ++c) store(product + c * L, load(g + c * L) * load(other + c * L));
    sums(minimum ? Side::below : Side::above, product, M, true, summed);
    for (int64_t c = 0; c < M; ++c) {
      store(out + c * L, fma(load(g + c * L), load(beyond + c * L), load(summed + c * L)));
    }
  }

  void lookup_adjoint(const RamStepModule& module, const Real* a, const Real* b, const Real* g) {
    set_zero(gradient_a_, M);
    set_zero(gradient_b_, M);
    for (int64_t i = 0; i < M; ++i) {
      Row<Real> sum = all(Real(0));
      const Row<Real> left = load(a + i * L);
      for (int64_t j = 0; j < (module.operands > 1 ? M : 1); ++j) {
        const Row<Real> slope = load(g + module.lookup[i * M + j] * L);
        sum = fma(module.operands > 1 ? load(b + j * L) : all(Real(1)), slope, sum);
        if (module.operands > 1) store(gradient_b_ + j * L, fma(left, slope, load(gradient_b_ + j * L)));
      }
      store(gradient_a_ + i * L, sum);
    }
  }

  const int64_t M;
  const bool renormalises_;
  Real *gradient_a_, *gradient_b_, *scratch_;
  bool sound_ = true;
};

}  // namespace
}  // namespace loci::LOCI_LEVEL
