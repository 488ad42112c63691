// A linear map of few vectors, as in decoding: reading the weight is all the work.
//
// Legend: T vectors, d inputs, O outputs of each.
//
//   few_linear(x [T, d], weight [O, d], bias [O] or none) -> y [T, O]
//     y[t, o] = sum over c of x[t, c] * weight[o, c] + bias[o]
//
// All of one floating dtype on one device. float32 on CPU has a path of its own, which reads the weight once for up to
// four vectors, with the same bits for any number of threads, at every CPU level, and for a vector whatever its
// neighbours; everything else is the definition, at::linear. Gradient: to all inputs, of any order, that of at::linear.
// The framework's product of one vector runs on one thread and moves fewer bytes a second (loci bench few_linear).
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace loci {

at::Tensor few_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias = {});

// x [.., d] weight^T + bias -> [.., O], by few_linear where that is the faster one: few vectors in float32 on CPU, no
// gradient to record, no autocast. Otherwise by at::linear.
at::Tensor linear_map(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias = {});

}  // namespace loci
