// The autograd entry of a gradient operator: it computes, and refuses to be differentiated itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

namespace loci {

// Runs `gradient` below autograd. Differentiating its results with respect to `inputs`, four at most, throws
// "WHO: a second derivative is not implemented".
std::vector<at::Tensor> without_second_derivative(const std::string& who, const std::vector<at::Tensor>& inputs,
                                                  const std::function<std::vector<at::Tensor>()>& gradient);

}  // namespace loci
