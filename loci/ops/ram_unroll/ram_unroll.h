// Whole runs of neural random-access machines with their controllers: losses, errors and gradients in one call.
//
// Legend: S independent seeds, B samples of each, R registers, M values and cells, O logits of a circuit, W width,
// T steps, P parameters of a controller.
//
//   ram_unroll(parameters [S, P], tape [S, B, M], target [S, B, M], cell_weight [S, B, M], steps [S], bonus [S])
//     for each seed s and sample: registers = (0, ..., 0), Mem = tape, both as distributions
//       for t in 1 .. T = steps[s]:
//         logits, s_t = controller(P(r_1 = 0), ..., P(r_R = 0))
//         registers, Mem = ram_step(logits, registers, Mem)
//         f_t = sigmoid(s_t);  p_t = f_t (1 - f_1) ... (1 - f_{t-1});  p_T takes what is left
//       loss  mixture:  -sum_i weight_i log max(sum_t p_t Mem_t[i, target_i], floor)
//             expected: -sum_t p_t sum_i weight_i log max(Mem_t[i, target_i], floor)
//       entropy = sum of the entropies of all choices of all steps, also where the bonus is 0
//       wrong = number of cells whose likeliest value in sum_t p_t Mem_t is not the target
//     objective[s] = mean over samples of loss - bonus[s] / T * entropy;  gradient[s] = its gradient
//
// The controller: `mlp`, two hidden layers; `lstm`, one and a memory cell; ReLU; the parameters are, layer by layer,
// the weight [outputs, inputs] and the bias. Activation gradients are clipped per sample, before the mean
// (options.clip).
//
// parameters, cell_weight, bonus: float32 or float64. tape, target: int32; target -1 where a cell is no output. At
// least one sample, unless there is no seed. On CPU a seed's results have the same bits alone, together with other
// seeds and for any number of threads. The objective has a gradient to the parameters, if with_gradient is set; no
// other input and no other result has one, and there is no second derivative.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/ops/ram_step/ram_step.h"

namespace loci {

struct RamUnrollOptions {
  RamStepOptions machine;
  bool lstm = false;
  int64_t width = 64;
  bool mixture = true;
  double floor = 1e-6;

  int64_t parameters() const;  // P
};

struct RamUnrollInput {
  at::Tensor tape, target;  // [S, B, M] int32
  at::Tensor cell_weight;   // [S, B, M]
  at::Tensor steps;         // [S] int64
  at::Tensor bonus;         // [S]
};

struct RamUnrollOutput {
  at::Tensor objective;      // [S], differentiable to the parameters
  at::Tensor loss, entropy;  // [S, B]
  at::Tensor wrong;          // [S, B] int32
  at::Tensor gradient;       // [S, P], or [S, 0] without with_gradient
  at::Tensor sound;          // [S] bool: every sum that was divided by was at least 1/2
};

RamUnrollOutput ram_unroll(const at::Tensor& parameters, const RamUnrollInput& input, const RamUnrollOptions& options,
                           bool with_gradient);

}  // namespace loci
