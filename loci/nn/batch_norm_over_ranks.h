// Batch norm where each of P ranks has a slice of the batch: the statistics are those of all ranks' tokens, and so are
// the averages in its gradient. Ranks with their slices give what one process gives with all tokens, up to the rounding
// of sums, also where a slice is empty. Every rank calls these functions together, and backward together.
//
// Legend: T tokens of this rank, C features.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "loci/distributed/collectives.h"
#include "loci/nn/batch_normalised.h"

namespace loci {

// Of the tokens of all ranks: their number and, for each feature, the mean and the sum of squared differences from it.
struct RankMoments {
  int64_t tokens = 0;
  at::Tensor mean, squares;  // [C] float64
};

// Of x [T, ...] over T: one message with each rank's moments, merged in the order of ranks (Chan, Golub and LeVeque
// 1979). All ranks get the same bits. A constant in backward.
RankMoments moments_over_ranks(const at::Tensor& x, const Ranks& ranks);

// Running statistics take their share of a batch's, the variance with tokens - 1. There must be 2 tokens or more.
void move_running(const NormTensors& tensors, const RankMoments& moments);

// batch_normalised() in training, with `moments` of x. Its backward sends one message; the gradients of gain and bias
// are those of this rank's tokens, to be summed over ranks as other gradients are. With fewer than 2 tokens on all
// ranks together the running statistics stand for those of the batch.
at::Tensor batch_normalised_over_ranks(const at::Tensor& x, const NormTensors& tensors, const RankMoments& moments,
                                       const Ranks& ranks);

}  // namespace loci
