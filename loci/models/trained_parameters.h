// Which parameters of a network of convolutions are trained, and which decay.
#pragma once

#include <torch/nn/module.h>

#include <vector>

#include "loci/optim/dense_optimizer.h"

namespace loci {

// Those with a gradient, by name. Weights decay: matrices and kernels (two, four and five dimensions). Norms and biases
// (one) and keys (three) do not.
std::vector<NamedParameter> trained_parameters(const torch::nn::Module& module);

}  // namespace loci
