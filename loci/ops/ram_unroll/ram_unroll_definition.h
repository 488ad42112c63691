// What the definition of ram_unroll shares with its CPU path and its tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "loci/ops/ram_unroll/ram_unroll.h"

namespace loci {

void check_ram_unroll(const at::Tensor& parameters, const RamUnrollInput& input, const RamUnrollOptions& options);

// p_1 .. p_T of stop logits [N, T]: [N, T].
at::Tensor ram_stop_definition(const at::Tensor& logits);
// The loss of each sample [N] from the tapes after each step [N, T, M, M] and the stop probabilities [N, T].
at::Tensor ram_loss_definition(const at::Tensor& tapes, const at::Tensor& stop, const at::Tensor& target,
                               const at::Tensor& cell_weight, bool mixture, double floor);

RamUnrollOutput ram_unroll_definition(const at::Tensor& parameters, const RamUnrollInput& input,
                                      const RamUnrollOptions& options, bool with_gradient);

// kRun(parameters, input, options, with_gradient) as the dispatcher sees it.
template <auto kRun>
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> ram_unroll_operator(
    const at::Tensor& parameters, const at::Tensor& tape, const at::Tensor& target, const at::Tensor& cell_weight,
    const at::Tensor& steps, const at::Tensor& bonus, int64_t registers, at::IntArrayRef modules,
    at::IntArrayRef operands, const at::Tensor& lookup, double clip, bool renormalise, bool lstm, int64_t width,
    bool mixture, double floor, bool with_gradient) {
  const RamUnrollOptions options = {
      {registers, modules.vec(), operands.vec(), lookup, clip, renormalise}, lstm, width, mixture, floor};
  const RamUnrollOutput out = kRun(parameters, {tape, target, cell_weight, steps, bonus}, options, with_gradient);
  return {out.objective, out.loss, out.entropy, out.wrong, out.gradient, out.sound};
}

}  // namespace loci
