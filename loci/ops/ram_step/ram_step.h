// One timestep of Neural Random-Access Machines (Kurach, Andrychowicz, Sutskever, ICLR 2016, arXiv 1511.06392, sec. 3).
//
// Legend: N samples (of any number of seeds), R registers, Q modules, M values and cells, O logits of a circuit.
//
//   ram_step(logits [N, O], registers [N, R, M], tape [N, M, M]) -> (registers [N, R, M], tape [N, M, M])
//     V = registers
//     for i in 0 .. Q-1:
//       a_i, b_i = the next R + i logits each, as many as the module has operands
//       o_i = module_i(V^T softmax(a_i), V^T softmax(b_i))      READ: tape^T p; WRITE: tape = (1-p) tape + p a, o = a;
//       V = (V, o_i)                 the others: P(o = c) = sum over x, y of A_x B_y [module(x, y) = c]
//     new register r = V^T softmax(the next R + Q logits), for all r at once
//   then READ, the modules of two numbers other than comparisons, and the new registers are divided by their sum, with
//   the identity as gradient. Gradients of the new registers, the new tape and every o_i are clipped, coordinate by
//   coordinate, after all that flows into them has been added.
//
// float32 or float64; the stop logit is not part of O. The definition is the only implementation: a whole run is
// ram_unroll, which is fast. The backward pass computes the step again. There is no second derivative.
#pragma once

#include <ATen/core/Tensor.h>

#include <limits>
#include <tuple>
#include <vector>

#include "loci/base/ram_modules.h"

namespace loci {

// Registers and modules of a machine as the operators take them.
struct RamStepOptions {
  int64_t registers = 4;
  std::vector<int64_t> operation;                         // [Q] of RamOperation; kRamLookup + u: table u of `lookup`
  std::vector<int64_t> operands;                          // [Q]
  at::Tensor lookup;                                      // [U, M, M] int32: a user's module u on every pair of numbers
  double clip = std::numeric_limits<double>::infinity();  // of activation gradients; infinity: off
  bool renormalise = true;

  int64_t logits() const;  // O
};

// The list of modules `repeats` times. A module that is not one of standard_modules() is tabulated for this M from its
// integer form, so that a module of the user needs nothing more.
RamStepOptions ram_step_options(int64_t registers, const std::vector<RamModule>& modules, int64_t repeats, int64_t M);

std::tuple<at::Tensor, at::Tensor> ram_step(const at::Tensor& logits, const at::Tensor& registers,
                                            const at::Tensor& tape, const RamStepOptions& options);

}  // namespace loci
