// What the definition of ram_unroll shares with its CPU path, with layers and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

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

}  // namespace loci
