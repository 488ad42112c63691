// A batch norm in evaluation mode behind whole numbers, as numbers that need no batch norm: an integer threshold where
// its sign is wanted, or a line.
//
// Legend: O features.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "loci/nn/batch_normalised.h"

namespace loci {

// The sign of norm(y) is +1 where y[o] >= threshold[o], and the other one where bit o of `turned` is 1
// (binary_threshold of ops/binary_linear).
struct SignThreshold {
  at::Tensor threshold;  // [O] int32, of -most .. most + 1
  at::Tensor turned;     // [ceil(O / 64)] int64
};

// batch_normalised of y in float32, with its bits: (y - mean) * factor + bias.
struct NormLine {
  at::Tensor mean, factor, bias;  // [O] float32
};
NormLine line_of_norm(const NormTensors& norm);

// For whole numbers |y| <= most, at most 2^24. In real numbers gain * (y - mean) / sigma + bias >= 0 has the threshold
// T = mean - bias * sigma / gain; a gain below 0 turns it, and a gain of 0 gives the sign of the bias. Here the
// threshold is searched with the roundings of the line in float32, so that the sign is the same for every y. Throws
// Error (input) for a norm that is not finite.
SignThreshold fold_line(const NormLine& line, int64_t most);
SignThreshold fold_norm(const NormTensors& norm, int64_t most);  // of its line

}  // namespace loci
