// A whole run of neural random-access machines with their controllers, losses and gradients, on raw pointers. The
// contract: ram_unroll.h.
//
// Legend: R registers, M values and cells, O logits of a circuit, W width of the controller, P parameters, T steps,
// L lanes (samples of a block), J outputs and K inputs of a layer.
//
// One call computes one block of one seed: L samples, the innermost dimension of everything here, so that every module
// is vector code whatever M is. Blocks share nothing, and their gradients are added in the order of the blocks, so that
// the bits depend on neither threads nor the other seeds. Flops of a block's update: 6 L T P in the controller, about
// 6 L T M (O + 5 M) in the machine. Everything fits the second-level cache at M 16, T 7.
#pragma once

#include <stdint.h>

#include "loci/ops/ram_step/ram_machine_kernel.h"

namespace loci {

// A dense layer: weight [J, K], then bias [J] in the parameters. In a block's gradient K is padded to lanes.
struct RamLayer {
  int64_t outputs;   // J
  int64_t inputs;    // K
  int64_t offset;    // of the weight in the parameters; the bias follows
  int64_t padded;    // K in the gradient of a block
  int64_t gradient;  // offset of the weight in the gradient of a block; the bias follows
};

struct RamController {
  bool lstm;  // else two hidden layers
  int64_t width;
  RamLayer layer[3];
  int64_t parameters;  // P
  int64_t gradient;    // reals of a block's gradient
};

// mlp: R -> W -> W -> O + 1. lstm: R -> W, then gates [2 W -> 4 W] (input, forget, candidate, output), W -> O + 1.
static inline RamController ram_controller(const RamMachine& machine, bool lstm, int64_t width, int64_t lanes) {
  RamController c = {};
  c.lstm = lstm;
  c.width = width;
  const int64_t inputs[3] = {machine.registers, lstm ? 2 * width : width, width};
  const int64_t outputs[3] = {width, lstm ? 4 * width : width, ram_logits(machine) + 1};
  for (int l = 0; l < 3; ++l) {
    const int64_t padded = (inputs[l] + lanes - 1) / lanes * lanes;
    const int64_t bias = (outputs[l] + lanes - 1) / lanes * lanes;
    c.layer[l] = {outputs[l], inputs[l], c.parameters, padded, c.gradient};
    c.parameters += outputs[l] * (inputs[l] + 1);
    c.gradient += outputs[l] * padded + bias;
  }
  return c;
}

template <class Real>
struct RamUnrollArguments {
  const RamMachine* machine;
  const RamController* controller;
  const Real* parameters;   // [P] of the seed
  int64_t samples;          // of the block, 1 .. L
  int64_t steps;            // T
  const int32_t* tape;      // [samples, M]
  const int32_t* target;    // [samples, M]; -1: not an output cell
  const Real* cell_weight;  // [samples, M]
  bool mixture;             // the form of the loss
  Real floor;               // below which a probability counts as this much
  Real entropy_bonus;       // lambda
  Real* workspace;          // ram_unroll_workspace, aligned to kRamLaneBytes
  // Written:
  Real* gradient;  // of the sum of the losses, controller.gradient reals; null: forward alone
  Real* loss;      // [samples]
  Real* entropy;   // [samples], sum over steps and choices
  int32_t* wrong;  // [samples], output cells whose likeliest value is not the target
};

constexpr int64_t kRamModuleScratch = 3;  // distributions

// Reals of a circuit's weights, values, gradients and tapes.
static inline int64_t ram_circuit_workspace(const RamMachine& machine, int64_t lanes) {
  int64_t writes = 0;
  for (int64_t i = 0; i < machine.modules; ++i) writes += machine.module[i].operation == kRamWrite;
  const int64_t M = machine.values, Q = machine.modules;
  const int64_t distributions = 2 * (machine.registers + Q) + 2 * Q + 2 + kRamModuleScratch;
  return lanes * (ram_logits(machine) + distributions * M + writes * M * M);
}

// Reals.
static inline int64_t ram_unroll_workspace(const RamMachine& machine, const RamController& controller, int64_t steps,
                                           int64_t lanes, bool with_gradient) {
  const int64_t M = machine.values, R = machine.registers;
  const int64_t kept = with_gradient ? steps : 1;
  int64_t rows = (kept + 1) * (R * M + M * M) + 5 * steps + 2 + steps * M + 2 * M + M * M + R * M + M * M;
  for (const RamLayer& layer : controller.layer) {
    rows += (kept + 1) * (layer.inputs + layer.outputs) + kept * layer.outputs + layer.inputs + layer.outputs;
  }
  rows += (2 * kept + 4) * 2 * controller.width;
  int64_t reals = rows * lanes;
  for (const RamLayer& layer : controller.layer) reals += kept * lanes * layer.padded;
  return reals + ram_circuit_workspace(machine, lanes);
}

// They return true if every distribution that was renormalised had a sum of at least 1/2.
struct RamUnrollKernel {
  bool (*float32)(const RamUnrollArguments<float>& a);
  bool (*float64)(const RamUnrollArguments<double>& a);
};

namespace base {
extern const RamUnrollKernel ram_unroll_kernel;
}
namespace avx2 {
extern const RamUnrollKernel ram_unroll_kernel;
}
namespace avx512 {
extern const RamUnrollKernel ram_unroll_kernel;
}

}  // namespace loci
