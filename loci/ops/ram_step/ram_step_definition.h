// What the definition of ram_step shares with ram_unroll and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <tuple>
#include <vector>

#include "loci/ops/ram_step/ram_step.h"

namespace loci {

void check_ram_machine(const char* who, const RamStepOptions& options, int64_t M);
void check_ram_step(const at::Tensor& logits, const at::Tensor& registers, const at::Tensor& tape,
                    const RamStepOptions& options);

// [M, M] int32: the value of a pure module on every pair of numbers.
at::Tensor ram_module_table(const RamModule& module, int64_t M);

// By the double sums, differentiable by autograd.
std::tuple<at::Tensor, at::Tensor> ram_step_definition(const at::Tensor& logits, const at::Tensor& registers,
                                                       const at::Tensor& tape, const RamStepOptions& options);

// Sum of the entropies of all choices: [N].
at::Tensor ram_entropy_definition(const at::Tensor& logits, const RamStepOptions& options);

// Runs `f` with gradients recorded, also below autograd.
std::vector<at::Tensor> with_autograd(const std::function<std::vector<at::Tensor>()>& f);

}  // namespace loci
