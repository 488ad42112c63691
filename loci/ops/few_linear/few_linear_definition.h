// What the definition of few_linear shares with its CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace loci {

void check_few_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);
at::Tensor few_linear_definition(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

}  // namespace loci
