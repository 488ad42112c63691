// Batch norm of feature maps as a module, with the names of the framework's state dictionaries.
//
// Legend: C channels.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>

namespace loci {

class ChannelNorm : public torch::nn::Module {
 public:
  explicit ChannelNorm(int64_t channels);
  // x [B, C, ...]; the statistics of the batch in training, the running ones in evaluation.
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight, bias, running_mean, running_var;  // [C]
};

}  // namespace loci
