// One timestep of the machine on a block, forward and backward. For kernel files alone.
//
// Legend: R registers, Q modules, M values, O logits, L lanes. The registers and the outputs of the modules lie in one
// buffer V of R + Q distributions, [R + Q, M, L]: what a module can choose from is a prefix of it.
//
// Estimate: 2 M O flops of a sample for mixing forward, in addition to those of the modules; twice that backward.
#pragma once

#include "loci/ops/ram_unroll/ram_modules_kernel.h"
#include "loci/ops/ram_unroll/ram_unroll_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

template <class Real>
class Circuit {
 public:
  static constexpr int64_t L = ram_lanes<Real>();

  // `memory` has ram_circuit_workspace reals.
  Circuit(const RamMachine& machine, Real* memory)
      : machine_(machine),
        R(machine.registers),
        Q(machine.modules),
        M(machine.values),
        weight_(memory),
        values_(weight_ + ram_logits(machine) * L),
        gradient_values_(values_ + (R + Q) * M * L),
        operands_(gradient_values_ + (R + Q) * M * L),
        gradient_a_(operands_ + 2 * Q * M * L),
        gradient_b_(gradient_a_ + M * L),
        tapes_(gradient_b_ + (1 + kRamModuleScratch) * M * L),
        modules_(machine, gradient_a_, gradient_b_, gradient_b_ + M * L) {}

  // Weights from logits. Adds the entropies of all choices to `entropy`, unless that is null.
  void choose(const Real* logits, Row<Real>* entropy) {
    for_each_choice(machine_, [&](int64_t offset, int64_t length) {
      softmax(logits + offset * L, length, weight_ + offset * L, entropy);
    });
  }

  // Registers and tape after the step. Without new_registers and new_tape it computes only what backward() needs.
  void forward(const Real* registers, const Real* tape, Real* new_registers, Real* new_tape) {
    copy(registers, R * M, values_);
    int64_t writes_left = writes_of_circuit(), last_read = -1, writes = 0;
    for (int64_t i = 0; i < Q; ++i) {
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
        if (next != nullptr) modules_.write(operand_of(i, 0), operand_of(i, 1), tape, next);
        tape = next;
        copy(operand_of(i, 1), M, output_of(i));
      } else {
        modules_.evaluate(module, operand_of(i, 0), operand_of(i, 1), tape, output_of(i));
      }
    }
    if (new_tape != nullptr && tape != new_tape) copy(tape, M * M, new_tape);  // no WRITE
    if (new_registers == nullptr) return;
    for (int64_t r = 0; r < R; ++r, weight += (R + Q) * L) {
      mix(weight, values_, R + Q, M, new_registers + r * M * L);
      modules_.renormalise(new_registers + r * M * L);
    }
  }

  // After choose() and forward() without new_registers and new_tape. The gradients of the new registers and tape are
  // clipped, then overwritten by those of the old ones; those of the weights are written.
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
    int64_t writes = writes_of_circuit();
    // The tape that a module sees is the one after `writes` WRITEs.
    const auto seen = [&] { return writes == 0 ? tape : tapes_ + (writes - 1) * M * M * L; };
    for (int64_t i = Q; i-- > 0;) {
      const RamStepModule& module = machine_.module[i];
      Real* g = gradient_values_ + (R + i) * M * L;
      clip_rows(g, M, clip);
      if (module.operation == kRamWrite) {
        --writes;
        modules_.write_adjoint(operand_of(i, 0), operand_of(i, 1), seen(), g, gradient_tape);
      } else if (module.operands > 0) {
        modules_.adjoint(module, operand_of(i, 0), operand_of(i, 1), seen(), g, gradient_tape);
      }
      for (int32_t operand = module.operands; operand-- > 0;) {
        offset -= R + i;
        mix_adjoint(weight_ + offset * L, values_, R + i, M, operand == 0 ? gradient_a_ : gradient_b_,
                    gradient_weight + offset * L, gradient_values_);
      }
    }
    copy(gradient_values_, R * M, gradient_registers);
  }

  // False after a forward pass in which a sum below 1/2 or NaN was divided by.
  bool sound() const { return modules_.sound(); }

  // Gradients of the weights become those of the logits.
  void choose_adjoint(const Real* logits, const Row<Real>* bonus, Real* gradient) {
    for_each_choice(machine_, [&](int64_t offset, int64_t length) {
      softmax_adjoint(logits + offset * L, weight_ + offset * L, length, bonus, gradient + offset * L);
    });
  }

 private:
  Real* operand_of(int64_t i, int64_t operand) { return operands_ + (2 * i + operand) * M * L; }
  Real* output_of(int64_t i) { return values_ + (R + i) * M * L; }
  int64_t writes_of_circuit() const {
    int64_t writes = 0;
    for (int64_t i = 0; i < Q; ++i) writes += machine_.module[i].operation == kRamWrite;
    return writes;
  }

  const RamMachine& machine_;
  const int64_t R, Q, M;
  Real *weight_, *values_, *gradient_values_, *operands_, *gradient_a_, *gradient_b_;
  Real* tapes_;  // after each WRITE
  ModuleAlgebra<Real> modules_;
};

}  // namespace
}  // namespace loci::LOCI_LEVEL
