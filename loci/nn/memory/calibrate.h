// The data-dependent start of a memory: query net, keys and values begin anew from what the layer really receives.
#pragma once

#include <cstdint>
#include <string>
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
// The seed of one of several memories, numbered from 0 in the order in which they are calibrated.
uint64_t calibration_seed(uint64_t seed, int64_t number);

// The parts of calibrate(), for a memory that is not a module of C++ (Python's loci.calibrate). `table`: its name.
struct CalibratedMap {
  at::Tensor weight, bias;    // [H * 2w, d], [H * 2w] float64
  at::Tensor mean, variance;  // [H * 2w] float64, of the queries that the map makes of the inputs; undefined without
};
CalibratedMap calibrated_map(const at::Tensor& inputs, int64_t heads, int64_t half_width, bool statistics,
                             const std::string& table, const CalibrateOptions& options);
// The n keys of all heads for one half, 0 or 1, [H, n, w] float64, from normalised queries [T, H, 2, w].
at::Tensor calibrated_keys(const at::Tensor& query, int64_t half, int64_t n, const std::string& table,
                           const CalibrateOptions& options);

}  // namespace loci
