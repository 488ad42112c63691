// What the definition of half_norm shares with its CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace loci {

void check_half_norm(const at::Tensor& x, const at::Tensor& gain, const std::optional<at::Tensor>& bias);
void check_half_norm_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& gain,
                              const at::Tensor& mean, const at::Tensor& scale);

// (y, mean, scale)
std::tuple<at::Tensor, at::Tensor, at::Tensor> half_norm_definition(const at::Tensor& x, const at::Tensor& gain,
                                                                    const std::optional<at::Tensor>& bias,
                                                                    double epsilon);
std::tuple<at::Tensor, at::Tensor, at::Tensor> half_norm_backward_definition(const at::Tensor& grad,
                                                                             const at::Tensor& x,
                                                                             const at::Tensor& gain,
                                                                             const at::Tensor& mean,
                                                                             const at::Tensor& scale, bool has_bias);

}  // namespace loci
