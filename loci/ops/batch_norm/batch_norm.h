// Batch normalisation whose bits do not depend on the number of threads: each feature is summed over chunks of 512
// tokens, and over the chunks in their order. (The framework's own splits the tokens among threads.)
//
// Legend: T tokens, C features.
//
//   batch_norm(x [T, C], gain [C], bias [C], running_mean [C], running_variance [C], training, momentum, epsilon)
//       -> y [T, C]
//     training and T >= 2: mean, variance = those of the batch, the variance biased;
//                          running_mean     := (1 - momentum) * running_mean + momentum * mean
//                          running_variance := (1 - momentum) * running_variance + momentum * variance * T / (T - 1)
//     otherwise:           mean, variance = the running ones, which stay as they are
//     y = (x - mean) / sqrt(variance + epsilon) * gain + bias
//
// x: float64, float32 or bfloat16; all others and y: float64 for a float64 x, else float32. Gradient: to x (in its
// dtype), gain and bias, once; the running statistics get none, and their version counters move when they are written.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace loci {

at::Tensor batch_norm(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& bias,
                      const at::Tensor& running_mean, const at::Tensor& running_variance, bool training,
                      double momentum = 0.1, double epsilon = 1e-5);

// The same with the statistics [2, C] that its gradient takes.
std::tuple<at::Tensor, at::Tensor> batch_norm_with_statistics(const at::Tensor& x, const at::Tensor& gain,
                                                              const at::Tensor& bias, const at::Tensor& running_mean,
                                                              const at::Tensor& running_variance, bool training,
                                                              double momentum, double epsilon);

// The gradients of x, gain and bias. statistics [2, C] float64: mean and 1 / sqrt(variance + epsilon) of the forward
// pass; of_batch: whether they are the batch's, which depend on x.
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_backward(const at::Tensor& grad, const at::Tensor& x,
                                                                   const at::Tensor& gain, const at::Tensor& statistics,
                                                                   bool of_batch);

}  // namespace loci
