// Layer or RMS normalisation of query halves, each with its own gain, in one pass. (The framework's has one gain for
// all rows: the gain of a half would take a second pass forward and four backward.)
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

// Legend: T tokens, H heads, w width of a half. x [T, H, 2, w] in float32 or float64; gain, bias [H, 2, w].
//   bias given:      (x - mean) / sqrt(variance + epsilon) * gain + bias, over each half
//   bias undefined:  x / sqrt(average of x^2 + epsilon) * gain
// The same bits for any number of threads.
at::Tensor half_norm(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& bias, double epsilon = 1e-5);

// The same from the framework's operators: the oracle of the tests, and the way on other devices.
at::Tensor half_norm_definition(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& bias,
                                double epsilon = 1e-5);

}  // namespace loci
