// Batch norm whose factors are powers of two, so that its products are shifts (Courbariaux, Hubara et al.
// 2016, "Binarized neural networks", arXiv 1602.02830: shift-based batch normalization).
//
// Legend: T rows, O features.
//
//   AP2(z)    sign(z) * 2^round(log2 |z|)                            nearest_power
//   training  mean = average of x over T;  c = x - mean
//             variance = average over T of c AP2(c)
//   y         c * (AP2(1 / sqrt(variance + epsilon)) * AP2(gain)) + bias
//   running   moved to mean and variance of the batch by kNormMomentum; what evaluation uses
//   backward  of these formulas, with AP2 as the identity             ours: the paper says nothing
//
// c AP2(c) lies between c^2 / sqrt(2) and c^2 sqrt(2). The printed algorithm ends without the bias that it lists among
// the parameters; here it is added.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/nn/batch_normalised.h"
#include "loci/nn/small/fold_norm.h"

namespace loci {

// x [T, O] -> y [T, O], in float32 or, for float64, in float64. Moves the running statistics in training.
at::Tensor shift_normalised(const at::Tensor& x, const NormTensors& norm, bool training);

// shift_normalised of whole numbers in evaluation mode as a line with its bits in float32; its factors are powers of
// two or 0.
NormLine line_of_shift_norm(const NormTensors& norm);

}  // namespace loci
