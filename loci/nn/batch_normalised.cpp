#include "loci/nn/batch_normalised.h"

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>

#include "loci/ops/batch_norm/batch_norm.h"

namespace loci {

using at::Tensor;

at::ScalarType exact_type_of(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor batch_normalised(const Tensor& x, const NormTensors& tensors, bool training) {
  const auto type = exact_type_of(x);
  const auto features = [&](const Tensor& tensor) { return tensor.to(type).view(-1); };
  const Tensor mean = features(tensors.running_mean), variance = features(tensors.running_variance);
  const Tensor y = batch_norm(x.reshape({x.size(0), mean.numel()}), features(tensors.gain), features(tensors.bias),
                              mean, variance, training, kNormMomentum, kNormEpsilon);
  if (training && type != tensors.running_mean.scalar_type()) {
    tensors.running_mean.copy_(mean.view_as(tensors.running_mean));
    tensors.running_variance.copy_(variance.view_as(tensors.running_variance));
  }
  return y.view(x.sizes());
}

Tensor as_parameter(const Tensor& x, const Tensor& parameter) {
  return at::autocast::is_autocast_enabled(x.device().type()) ? x : x.to(parameter.scalar_type());
}

}  // namespace loci
