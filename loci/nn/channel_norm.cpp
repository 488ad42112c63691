#include "loci/nn/channel_norm.h"

#include <ATen/ops/batch_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "loci/nn/batch_normalised.h"

namespace loci {

ChannelNorm::ChannelNorm(int64_t channels) : Module("ChannelNorm") {
  weight = register_parameter("weight", at::ones({channels}));
  bias = register_parameter("bias", at::zeros({channels}));
  running_mean = register_buffer("running_mean", at::zeros({channels}));
  running_var = register_buffer("running_var", at::ones({channels}));
}

at::Tensor ChannelNorm::forward(const at::Tensor& x) const {
  return at::batch_norm(x, weight, bias, running_mean, running_var, is_training(), kNormMomentum, kNormEpsilon,
                        /*cudnn_enabled=*/false);
}

}  // namespace loci
