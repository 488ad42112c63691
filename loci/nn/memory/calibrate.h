// The data-dependent start of a memory: query net, keys and values begin anew from what the layer really receives.
#pragma once

#include <vector>

#include "loci/nn/memory/product_key_memory.h"

namespace loci {

struct CalibrateOptions {
  uint64_t seed = 0;
  double least_variance = 1e-3;  // eigenvalues below this share of the largest one count as this share
  bool keep_values = false;      // for a memory below a norm (side_memory.h), which values of 0 would stop
};

// inputs [T, d]: what the layer receives, about 8,000 tokens. Once, early in training or at insertion:
//   whitening P = U diag(max(e, least_variance * max e))^-1/2 of the inputs' covariance U diag(e) U^T, mean mu
//   per head and half: random orthonormal Q [d, w]; query weight rows (P Q)^T, bias -mu P Q; batch-norm running
//   statistics those of the new queries; sub-keys: real half-queries (after the norm) of length 1; values 0 (or kept)
// Needs a query net of one linear map. Statistics are summed in double in token order: same bits for any thread count.
// The caller clears optimiser state of what changed (OptimizerSet::clear_state) and counters of its rows.
void calibrate(ProductKeyMemory& memory, const at::Tensor& inputs, const CalibrateOptions& options);
// The parameters that it starts anew.
std::vector<at::Tensor> calibrated_parameters(const ProductKeyMemory& memory);

}  // namespace loci
