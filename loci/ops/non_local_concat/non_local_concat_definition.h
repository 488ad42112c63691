// What the definition of non_local_concat shares with its CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace loci {

void check_non_local_concat(const char* who, const at::Tensor& a, const at::Tensor& b, const at::Tensor& g);
void check_non_local_concat_backward(const at::Tensor& grad, const at::Tensor& a, const at::Tensor& b,
                                     const at::Tensor& g);

at::Tensor non_local_concat_definition(const at::Tensor& a, const at::Tensor& b, const at::Tensor& g);
// The gradients of a, b and g.
std::tuple<at::Tensor, at::Tensor, at::Tensor> non_local_concat_backward_definition(const at::Tensor& grad,
                                                                                    const at::Tensor& a,
                                                                                    const at::Tensor& b,
                                                                                    const at::Tensor& g);

}  // namespace loci
