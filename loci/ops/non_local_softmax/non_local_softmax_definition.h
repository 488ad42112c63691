// What the definition of non_local_softmax shares with its CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace loci {

at::Tensor non_local_softmax_definition(const at::Tensor& theta, const at::Tensor& phi, const at::Tensor& g,
                                        double scale);

// The gradients of theta, phi and g.
std::tuple<at::Tensor, at::Tensor, at::Tensor> non_local_softmax_backward_definition(const at::Tensor& grad,
                                                                                     const at::Tensor& theta,
                                                                                     const at::Tensor& phi,
                                                                                     const at::Tensor& g, double scale);

void check_non_local_softmax_backward(const at::Tensor& grad, const at::Tensor& theta, const at::Tensor& phi,
                                      const at::Tensor& g);

}  // namespace loci
