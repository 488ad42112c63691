// Registers and modules of a neural random-access machine, as kernels take them. The contract: ram_step.h.
//
// Legend: R registers, Q modules, M values and cells, O logits of a circuit (without the stop logit), L lanes.
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
  kRamLookup,  // a module of the user, given as a table of its values
};

struct RamStepModule {
  int32_t operation;      // of RamOperation
  int32_t operands;       // 0, 1 or 2
  const int32_t* lookup;  // of kRamLookup: [M, M], the value of (a, b); an operand that it lacks is 0
};

struct RamMachine {
  int64_t registers;  // R
  int64_t modules;    // Q
  int64_t values;     // M
  const RamStepModule* module;
  double clip;       // of the gradients of activations; infinity: off
  bool renormalise;  // divide distributions by their sums; the backward pass ignores this
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

}  // namespace loci
