#include "loci/nn/memory/memory_formula.h"

#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>

#include "loci/ops/batch_norm/batch_norm.h"
#include "loci/ops/few_linear/few_linear.h"
#include "loci/ops/half_norm/half_norm.h"

namespace loci {
namespace {

using at::Tensor;

constexpr double kQueryNormEpsilon = 1e-5;
constexpr double kLeastLength = 1e-6;

// q [T, H, 2, w], bfloat16 allowed: it is widened within the norm.
Tensor batch_normalised(const Tensor& q, const QueryNormTensors& tensors, bool training) {
  const auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto features = [&](const Tensor& tensor) { return tensor.to(type).view(-1); };
  const Tensor mean = features(tensors.running_mean), variance = features(tensors.running_variance);
  const Tensor y = batch_norm(q.reshape({q.size(0), mean.numel()}), features(tensors.gain), features(tensors.bias),
                              mean, variance, training, 0.1, kQueryNormEpsilon);
  if (training && type != tensors.running_mean.scalar_type()) {
    tensors.running_mean.copy_(mean.view_as(tensors.running_mean));
    tensors.running_variance.copy_(variance.view_as(tensors.running_variance));
  }
  return y.view(q.sizes());
}

}  // namespace

Tensor normalise_query(const Tensor& q, QueryNorm norm, const QueryNormTensors& tensors, bool training) {
  if (norm == QueryNorm::batch) return batch_normalised(q, tensors, training);
  const Tensor exact = q.scalar_type() == at::kDouble ? q : q.to(at::kFloat);
  const auto type = exact.scalar_type();
  switch (norm) {
    case QueryNorm::layer:
      return half_norm(exact, tensors.gain.to(type), tensors.bias.to(type), kQueryNormEpsilon);
    case QueryNorm::rms:
      return half_norm(exact, tensors.gain.to(type), std::nullopt, kQueryNormEpsilon);
    default:
      return exact;
  }
}

Tensor unit_vectors(const Tensor& x) {
  return x / at::linalg_vector_norm(x, 2, at::IntArrayRef{-1}, /*keepdim=*/true).clamp_min(kLeastLength);
}

Tensor weights_of(const Tensor& score, WeightFunction function) {
  switch (function) {
    case WeightFunction::softmax:
      return at::softmax(score, -1);
    case WeightFunction::relu:
      return at::relu(score);
    default:
      return at::sigmoid(score);
  }
}

Tensor map_output(const Tensor& y, const Tensor& x, OutputMap map, const OutputMapTensors& tensors) {
  if (map == OutputMap::none) return y;
  Tensor rows = as_parameter(y, tensors.weight);
  if (map == OutputMap::swilu) rows = rows * at::silu(linear_map(as_parameter(x, tensors.gate), tensors.gate));
  return linear_map(rows, tensors.weight, tensors.bias);
}

Tensor as_parameter(const Tensor& x, const Tensor& parameter) {
  return at::autocast::is_autocast_enabled(x.device().type()) ? x : x.to(parameter.scalar_type());
}

}  // namespace loci
