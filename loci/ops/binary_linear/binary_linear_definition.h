// What the definitions of binary_linear.h share with their CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

namespace loci {

void check_sign_pack(const at::Tensor& x);
void check_binary_linear(const at::Tensor& a, const at::Tensor& b, const c10::SymInt& inputs);
// `outputs`: how many there are a vector.
void check_binary_threshold(const c10::SymInt& outputs, const at::Tensor& like, const at::Tensor& threshold,
                            const at::Tensor& turned);

at::Tensor sign_pack_definition(const at::Tensor& x);
at::Tensor binary_linear_definition(const at::Tensor& a, const at::Tensor& b, c10::SymInt inputs);
at::Tensor binary_threshold_definition(const at::Tensor& y, const at::Tensor& threshold, const at::Tensor& turned);
at::Tensor binary_layer_definition(const at::Tensor& a, const at::Tensor& b, c10::SymInt inputs,
                                   const at::Tensor& threshold, const at::Tensor& turned);

}  // namespace loci
