// Batch normalisation whose bits do not depend on the number of threads: each feature is summed over chunks of 512
// tokens and over those in their order. (The framework's own splits the tokens among threads.)
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

// Legend: T tokens, C features. x [T, C]; gain, bias, running_mean, running_variance [C]; result [T, C].
// All of one type, float32 or float64; x may be in bfloat16 beside float32, and then its gradient is.
//   training and T >= 2:  (x - mean) / sqrt(variance + epsilon) * gain + bias with the batch's mean and biased
//   variance;
//                         running := (1 - momentum) * running + momentum * (mean, unbiased variance)
//   otherwise:            the same with the running statistics, which stay as they are
at::Tensor batch_norm(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& bias,
                      const at::Tensor& running_mean, const at::Tensor& running_variance, bool training,
                      double momentum = 0.1, double epsilon = 1e-5);

}  // namespace loci
