// One timestep of a neural random-access machine, on raw pointers. The contract: ram_step.h.
//
// Legend: R registers, Q modules, M values and cells, O logits of a circuit (without the stop logit), L lanes.
//
// A block is L samples, the innermost dimension of everything here, so that every module is vector code whatever M is.
// Flops of a sample's step forward: 2 M O for mixing and about 10 M^2 for the standard modules; backward twice that.
// Bytes: 4 (O + 2 (R + M) M) read or written once.
#pragma once

#include <stdint.h>

namespace loci {

enum RamOperation : int32_t {
  kRamRead,
  kRamZero,
  kRamOne,
  kRamTwo,
  kRamIncrement,
  kRamAdd,
  kRamSubtract,
  kRamDecrement,
  kRamLess,
  kRamLessEqual,
  kRamEqual,
  kRamMinimum,
  kRamMaximum,
  kRamWrite,
  kRamLookup,  // a user's own: its table says the value
};

struct RamStepModule {
  int32_t operation;      // of RamOperation
  int32_t operands;       // 0, 1 or 2
  const int32_t* lookup;  // of kRamLookup: [M, M], value of (a, b), 0 for an operand that it does not have
};

struct RamMachine {
  int64_t registers;  // R
  int64_t modules;    // Q
  int64_t values;     // M
  const RamStepModule* module;
  double clip;       // of the gradients of activations; infinity: off
  bool renormalise;  // divide distributions by their sums, backward as if not
};

constexpr int64_t kRamLaneBytes = 64;  // a block: 16 samples in float32, 8 in float64
template <class Real>
static constexpr int64_t ram_lanes() {
  return kRamLaneBytes / static_cast<int64_t>(sizeof(Real));
}

// O: the operand logits of each module in order, then R + Q logits of each register.
static inline int64_t ram_logits(const RamMachine& machine) {
  int64_t logits = machine.registers * (machine.registers + machine.modules);
  for (int64_t i = 0; i < machine.modules; ++i) logits += machine.module[i].operands * (machine.registers + i);
  return logits;
}

// Everything is aligned to kRamLaneBytes.
template <class Real>
struct RamStepArguments {
  const RamMachine* machine;
  const Real* logits;     // [O, L]
  const Real* registers;  // [R, M, L]
  const Real* tape;       // [M, M, L], a row a cell
  Real* workspace;        // ram_step_workspace
  // forward:
  Real* new_registers;
  Real* new_tape;
  // backward: the gradients of new registers and new tape are clipped and then overwritten by those of the old ones
  Real* gradient_registers;
  Real* gradient_tape;
  Real* gradient_logits;  // [O, L], written
};

// Reals.
static inline int64_t ram_step_workspace(const RamMachine& machine, int64_t lanes) {
  int64_t writes = 0;
  for (int64_t i = 0; i < machine.modules; ++i) writes += machine.module[i].operation == kRamWrite;
  const int64_t M = machine.values;
  const int64_t rows = machine.registers + machine.modules;
  return lanes * (2 * ram_logits(machine) + M * (2 * rows + 2 * machine.modules + 12) + M * M * (writes + 1));
}

// True when every distribution that was renormalised had a sum of at least 1/2 (NaN has not).
namespace base {
bool ram_step_forward(const RamStepArguments<float>& a);
bool ram_step_forward(const RamStepArguments<double>& a);
bool ram_step_backward(const RamStepArguments<float>& a);
bool ram_step_backward(const RamStepArguments<double>& a);
}  // namespace base
namespace avx2 {
bool ram_step_forward(const RamStepArguments<float>& a);
bool ram_step_forward(const RamStepArguments<double>& a);
bool ram_step_backward(const RamStepArguments<float>& a);
bool ram_step_backward(const RamStepArguments<double>& a);
}  // namespace avx2
namespace avx512 {
bool ram_step_forward(const RamStepArguments<float>& a);
bool ram_step_forward(const RamStepArguments<double>& a);
bool ram_step_backward(const RamStepArguments<float>& a);
bool ram_step_backward(const RamStepArguments<double>& a);
}  // namespace avx512

}  // namespace loci
