// Layer or RMS normalisation of query halves, each with its own gain, in one pass. (The framework's has one gain for
// all rows: the gain of a half would take a second pass forward and four backward.)
//
// Legend: T tokens, H heads, w width of a half.
//
//   half_norm(x [T, H, 2, w], gain [H, 2, w], bias [H, 2, w], epsilon) -> y [T, H, 2, w], over each half
//     bias given:  y = (x - mean) / sqrt(variance + epsilon) * gain + bias
//     none:        y = x / sqrt(average of x^2 + epsilon) * gain
//
// All of one dtype, float32 or float64. The same bits for any number of threads and at every CPU level. Gradient: to x,
// gain and bias, once.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace loci {

at::Tensor half_norm(const at::Tensor& x, const at::Tensor& gain, const std::optional<at::Tensor>& bias,
                     double epsilon = 1e-5);

// The gradients of x, gain and bias; that of the bias is undefined without one. mean, scale [T, H, 2] of each half: the
// mean, 0 without a bias, and 1 / sqrt(variance + epsilon).
std::tuple<at::Tensor, at::Tensor, at::Tensor> half_norm_backward(const at::Tensor& grad, const at::Tensor& x,
                                                                  const at::Tensor& gain, const at::Tensor& mean,
                                                                  const at::Tensor& scale, bool has_bias);

}  // namespace loci
