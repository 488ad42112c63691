// What the definition of batch_norm shares with its CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace loci {

at::ScalarType batch_norm_result_type(const at::Tensor& x);
// Whether the statistics are the batch's.
bool batch_norm_uses_batch(const at::Tensor& x, bool training);

void check_batch_norm(const at::Tensor& x, const at::Tensor& gain, const at::Tensor& bias,
                      const at::Tensor& running_mean, const at::Tensor& running_variance);
void check_batch_norm_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& gain,
                               const at::Tensor& statistics);

// (y, statistics)
std::tuple<at::Tensor, at::Tensor> batch_norm_definition(const at::Tensor& x, const at::Tensor& gain,
                                                         const at::Tensor& bias, const at::Tensor& running_mean,
                                                         const at::Tensor& running_variance, bool training,
                                                         double momentum, double epsilon);
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_backward_definition(
    const at::Tensor& grad, const at::Tensor& x, const at::Tensor& gain, const at::Tensor& statistics, bool of_batch);

}  // namespace loci
