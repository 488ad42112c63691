// A block's step forward and backward, for kernel files alone: the step operator and the whole unroll.
//
// Legend: R registers, Q modules, M values, O logits, L lanes. The registers and the outputs of the modules lie in one
// buffer V of R + Q distributions, [R + Q, M, L]: what a module can choose from is a prefix of it.
#pragma once

#include "loci/ops/ram_step/ram_rows_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

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
      Real* place = gradient_from + (v * M + m) * L;
      store(place, fma(w, slope, load(place)));
    }
    store(gradient_weight + v * L, dot);
  }
}

// out[c] = sum over b < M of x[b] * twice[c + b] (kSign 1) or of x[b] * twice[M + c - b] (kSign -1); twice is y, y.
template <int kSign, int kValues, class Real>
inline void turn_values(const Real* x, const Real* twice, int64_t M, Real* out) {
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
inline void turn(const Real* x, const Real* twice, int64_t M, Real* out) {
  constexpr int64_t L = ram_lanes<Real>();
  int64_t c = 0;
  for (; c + 4 <= M; c += 4) turn_values<kSign, 4>(x, twice + c * L, M, out + c * L);
  for (; c < M; ++c) turn_values<kSign, 1>(x, twice + c * L, M, out + c * L);
}

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

// softmax of `count` logits; `entropy` += its entropy when wanted.
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

// gradient[v] comes as that of the weight and leaves as that of the logit; the loss also falls by bonus * entropy.
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

// f(offset, length) for each of the circuit's distributions, in the order of the logits.
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
inline int64_t choices_of(const RamMachine& machine) {
  int64_t choices = machine.registers;
  for (int64_t i = 0; i < machine.modules; ++i) choices += machine.module[i].operands;
  return choices;
}

template <class Real>
class Step {
 public:
  static constexpr int64_t L = ram_lanes<Real>();

  // `memory` has ram_step_workspace reals.
  Step(const RamMachine& machine, Real* memory)
      : machine_(machine), R(machine.registers), Q(machine.modules), M(machine.values) {
    const auto take = [&memory](int64_t rows) {
      Real* begin = memory;
      memory += rows * L;
      return begin;
    };
    const int64_t logits = ram_logits(machine);
    weight_ = take(logits);
    take(logits);
    values_ = take((R + Q) * M);
    gradient_values_ = take((R + Q) * M);
    operands_ = take(2 * Q * M);
    gradient_a_ = take(M);
    gradient_b_ = take(M);
    scratch_ = take(9 * M);
    tapes_ = memory;  // after each WRITE
  }

  // Softmaxes the logits; adds their entropies to `entropy` when wanted.
  void choose(const Real* logits, Row<Real>* entropy) {
    for_each_choice(machine_, [&](int64_t offset, int64_t length) {
      softmax(logits + offset * L, length, weight_ + offset * L, entropy);
    });
  }

  // Registers and tape after the step; without new_registers only what the backward needs is made.
  bool forward(const Real* registers, const Real* tape, Real* new_registers, Real* new_tape) {
    good_ = true;
    copy(registers, R * M, values_);
    int64_t writes_left = 0, last_read = -1, writes = 0;
    for (int64_t i = 0; i < Q; ++i) {
      writes_left += machine_.module[i].operation == kRamWrite;
      if (machine_.module[i].operation == kRamRead) last_read = i;
    }
    const Real* weight = weight_;
    for (int64_t i = 0; i < Q; ++i) {
      const RamStepModule& module = machine_.module[i];
      for (int32_t operand = 0; operand < module.operands; ++operand) {
        mix(weight, values_, R + i, M, operand_of(i, operand));
        weight += (R + i) * L;
      }
      if (module.operation == kRamWrite) {
        const bool last = --writes_left == 0;
        Real* next = last && (new_tape != nullptr || i > last_read) ? new_tape : tapes_ + writes++ * M * M * L;
        if (next != nullptr) write(operand_of(i, 0), operand_of(i, 1), tape, next);
        tape = next;
        copy(operand_of(i, 1), M, output_of(i));
      } else {
        evaluate(module, operand_of(i, 0), operand_of(i, 1), tape, output_of(i));
      }
    }
    if (new_tape != nullptr && tape != new_tape) copy(tape, M * M, new_tape);  // no WRITE
    if (new_registers == nullptr) return good_;
    for (int64_t r = 0; r < R; ++r, weight += (R + Q) * L) {
      mix(weight, values_, R + Q, M, new_registers + r * M * L);
      renormalise(new_registers + r * M * L);
    }
    return good_;
  }

  // After choose() and forward() without new_registers and new_tape: gradients of registers and tape are overwritten,
  // those of the weights written.
  void backward(const Real* tape, Real* gradient_registers, Real* gradient_tape, Real* gradient_weight) {
    const Real clip = static_cast<Real>(machine_.clip);
    clip_rows(gradient_registers, R * M, clip);
    clip_rows(gradient_tape, M * M, clip);
    set_zero(gradient_values_, (R + Q) * M);
    int64_t offset = ram_logits(machine_);
    for (int64_t r = R; r-- > 0;) {
      offset -= R + Q;
      mix_adjoint(weight_ + offset * L, values_, R + Q, M, gradient_registers + r * M * L, gradient_weight + offset * L,
                  gradient_values_);
    }
    int64_t writes = 0;
    for (int64_t i = 0; i < Q; ++i) writes += machine_.module[i].operation == kRamWrite;
    // The tape that a module sees is the one after `writes` WRITEs.
    const auto seen = [&] { return writes == 0 ? tape : tapes_ + (writes - 1) * M * M * L; };
    for (int64_t i = Q; i-- > 0;) {
      const RamStepModule& module = machine_.module[i];
      Real* g = gradient_values_ + (R + i) * M * L;
      clip_rows(g, M, clip);
      if (module.operation == kRamWrite) {
        --writes;
        write_adjoint(operand_of(i, 0), operand_of(i, 1), seen(), g, gradient_tape);
      } else if (module.operands > 0) {
        adjoint(module, operand_of(i, 0), operand_of(i, 1), seen(), g, gradient_tape);
      }
      for (int32_t operand = module.operands; operand-- > 0;) {
        offset -= R + i;
        mix_adjoint(weight_ + offset * L, values_, R + i, M, operand == 0 ? gradient_a_ : gradient_b_,
                    gradient_weight + offset * L, gradient_values_);
      }
    }
    copy(gradient_values_, R * M, gradient_registers);
  }

  // Gradients of the weights become those of the logits.
  void choose_adjoint(const Real* logits, const Row<Real>* bonus, Real* gradient) {
    for_each_choice(machine_, [&](int64_t offset, int64_t length) {
      softmax_adjoint(logits + offset * L, weight_ + offset * L, length, bonus, gradient + offset * L);
    });
  }

 private:
  Real* operand_of(int64_t i, int64_t operand) { return operands_ + (2 * i + operand) * M * L; }
  Real* output_of(int64_t i) { return values_ + (R + i) * M * L; }

  void renormalise(Real* x) {
    if (!machine_.renormalise) return;
    const Row<Real> sum = sum_of(x, M);
    good_ = good_ && at_least(sum, Real(0.5));
    const Row<Real> share = all(Real(1)) / sum;
    for (int64_t c = 0; c < M; ++c) store(x + c * L, load(x + c * L) * share);
  }

  static Real* twice(const Real* x, int64_t M, Real* to) {
    copy(x, M, to);
    copy(x, M, to + M * L);
    return to;
  }

  // out[c] = sum of x over e <= c (or e < c, e >= c, e > c).
  static void sums_below(const Real* x, int64_t M, bool with_own, Real* out) {
    Row<Real> sum = all(Real(0));
    for (int64_t c = 0; c < M; ++c) {
      const Row<Real> next = sum + load(x + c * L);
      store(out + c * L, with_own ? next : sum);
      sum = next;
    }
  }
  static void sums_above(const Real* x, int64_t M, bool with_own, Real* out) {
    Row<Real> sum = all(Real(0));
    for (int64_t c = M; c-- > 0;) {
      const Row<Real> next = sum + load(x + c * L);
      store(out + c * L, with_own ? next : sum);
      sum = next;
    }
  }
  Row<Real> dot(const Real* x, const Real* y) const {
    Row<Real> sum = all(Real(0));
    for (int64_t c = 0; c < M; ++c) sum = fma(load(x + c * L), load(y + c * L), sum);
    return sum;
  }

  void evaluate(const RamStepModule& module, const Real* a, const Real* b, const Real* tape, Real* out) {
    Real* sums = scratch_;
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
        copy(a, M - 1, out + L);
        return copy(a + (M - 1) * L, 1, out);
      case kRamDecrement:
        copy(a + L, M - 1, out);
        return copy(a, 1, out + (M - 1) * L);
      case kRamAdd:
        turn<-1>(b, twice(a, M, scratch_), M, out);
        return renormalise(out);
      case kRamSubtract:
        turn<1>(b, twice(a, M, scratch_), M, out);
        return renormalise(out);
      case kRamLess:
      case kRamLessEqual: {
        const bool strict = module.operation == kRamLess;
        set_zero(out, M);
        sums_above(b, M, !strict, sums);
        store(out + L, dot(a, sums));
        sums_below(b, M, strict, sums);
        return store(out, dot(a, sums));
      }
      case kRamEqual: {
        set_zero(out, M);
        const Row<Real> equal = dot(a, b);
        store(out + L, equal);
        const Row<Real> other = sum_of(a, M) * sum_of(b, M) - equal;
        return store(out, machine_.renormalise ? larger(all(Real(0)), other) : other);
      }
      case kRamMinimum:
      case kRamMaximum:
        return extreme(module.operation == kRamMinimum, a, b, out);
      default: {
        set_zero(out, M);
        for (int64_t i = 0; i < (module.operands > 0 ? M : 1); ++i) {
          const Row<Real> left = module.operands > 0 ? load(a + i * L) : all(Real(1));
          for (int64_t j = 0; j < (module.operands > 1 ? M : 1); ++j) {
            Real* place = out + module.lookup[i * M + j] * L;
            const Row<Real> right = module.operands > 1 ? load(b + j * L) : all(Real(1));
            store(place, fma(left, right, load(place)));
          }
        }
        return renormalise(out);
      }
    }
  }

  // P(min = c) = A_c G_B(c) + B_c G_A(c) - A_c B_c with G the sums from c up; max with the sums up to c.
  void extreme(bool minimum, const Real* a, const Real* b, Real* out) {
    Real *of_a = scratch_, *of_b = scratch_ + M * L;
    (minimum ? sums_above : sums_below)(a, M, true, of_a);
    (minimum ? sums_above : sums_below)(b, M, true, of_b);
    for (int64_t c = 0; c < M; ++c) {
      const Row<Real> x = load(a + c * L), y = load(b + c * L);
      store(out + c * L, x * load(of_b + c * L) + y * (load(of_a + c * L) - x));
    }
    if (!machine_.renormalise) return;
    for (int64_t c = 0; c < M; ++c) store(out + c * L, larger(all(Real(0)), load(out + c * L)));
    renormalise(out);
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
        Real* place = gradient_tape + (i * M + c) * L;
        const Row<Real> d = load(place);
        slope = fma(d, load(value + c * L) - load(tape + (i * M + c) * L), slope);
        store(gradient_b_ + c * L, fma(p, d, load(gradient_b_ + c * L)));
        store(place, rest * d);
      }
      store(gradient_a_ + i * L, slope);
    }
  }

  // gradient_a_ and gradient_b_ from g; READ also adds to the tape's gradient.
  void adjoint(const RamStepModule& module, const Real* a, const Real* b, const Real* tape, const Real* g,
               Real* gradient_tape) {
    Real* sums = scratch_;
    switch (module.operation) {
      case kRamRead:
        return mix_adjoint(a, tape, M, M, g, gradient_a_, gradient_tape);
      case kRamIncrement:
        copy(g + L, M - 1, gradient_a_);
        return copy(g, 1, gradient_a_ + (M - 1) * L);
      case kRamDecrement:
        copy(g, M - 1, gradient_a_ + L);
        return copy(g + (M - 1) * L, 1, gradient_a_);
      case kRamAdd:
        twice(g, M, scratch_);
        turn<1>(b, scratch_, M, gradient_a_);
        return turn<1>(a, scratch_, M, gradient_b_);
      case kRamSubtract:
        turn<-1>(b, twice(g, M, scratch_), M, gradient_a_);
        return turn<1>(g, twice(a, M, scratch_), M, gradient_b_);
      case kRamLess:
      case kRamLessEqual: {
        // One: B above A; zero: the rest.
        const bool strict = module.operation == kRamLess;
        const Row<Real> one = load(g + L), zero = load(g);
        sums_above(b, M, !strict, sums);
        sums_below(b, M, strict, sums + M * L);
        blend(one, sums, zero, sums + M * L, gradient_a_);
        sums_below(a, M, !strict, sums);
        sums_above(a, M, strict, sums + M * L);
        return blend(one, sums, zero, sums + M * L, gradient_b_);
      }
      case kRamEqual: {
        const Row<Real> zero = load(g), step = load(g + L) - zero;
        const Row<Real> of_a = zero * sum_of(a, M), of_b = zero * sum_of(b, M);
        for (int64_t c = 0; c < M; ++c) {
          store(gradient_a_ + c * L, fma(step, load(b + c * L), of_b));
          store(gradient_b_ + c * L, fma(step, load(a + c * L), of_a));
        }
        return;
      }
      case kRamMinimum:
      case kRamMaximum:
        extreme_adjoint(module.operation == kRamMinimum, b, g, gradient_a_);
        return extreme_adjoint(module.operation == kRamMinimum, a, g, gradient_b_);
      default:
        return lookup_adjoint(module, a, b, g);
    }
  }

  void blend(const Row<Real>& x, const Real* a, const Row<Real>& y, const Real* b, Real* out) const {
    for (int64_t c = 0; c < M; ++c) store(out + c * L, fma(x, load(a + c * L), y * load(b + c * L)));
  }

  // Of min to one operand, the other being `other`: g_c S(c) + sum over e <= c of g_e other_e; max the other way round.
  void extreme_adjoint(bool minimum, const Real* other, const Real* g, Real* out) {
    Real *beyond = scratch_, *product = scratch_ + M * L, *sums = scratch_ + 2 * M * L;
    (minimum ? sums_above : sums_below)(other, M, false, beyond);
    for (int64_t c = 0; c < M; ++c) store(product + c * L, load(g + c * L) * load(other + c * L));
    (minimum ? sums_below : sums_above)(product, M, true, sums);
    for (int64_t c = 0; c < M; ++c) {
      store(out + c * L, fma(load(g + c * L), load(beyond + c * L), load(sums + c * L)));
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

  const RamMachine& machine_;
  const int64_t R, Q, M;
  Real *weight_, *values_, *gradient_values_, *operands_, *gradient_a_, *gradient_b_, *scratch_, *tapes_;
  bool good_ = true;
};

}  // namespace
}  // namespace loci::LOCI_LEVEL
