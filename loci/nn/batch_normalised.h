// Batch norm as blocks use it: its tensors, its constants, and the type that it computes in.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

// How far running statistics move to those of a batch.
constexpr double kNormMomentum = 0.1;
constexpr double kNormEpsilon = 1e-5;

// Parameters and running statistics of a norm, one entry a feature; undefined where the norm has no use for them.
struct NormTensors {
  at::Tensor gain, bias;
  at::Tensor running_mean, running_variance;
};

// Batch norm (ops/batch_norm) of x [T, ...] over T, each feature by itself, in float32 or, for float64, in float64. The
// tensors of the norm may be of another floating type: they are taken in that one.
at::Tensor batch_normalised(const at::Tensor& x, const NormTensors& tensors, bool training);

// float64 for float64, else float32.
at::ScalarType exact_type_of(const at::Tensor& x);

// `x` in the type of `parameter`; under autocast as it is, for there the framework casts both.
at::Tensor as_parameter(const at::Tensor& x, const at::Tensor& parameter);

}  // namespace loci
