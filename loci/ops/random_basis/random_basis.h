// Inner products with random directions and sums of them, without the directions in memory: the two halves of a step in
// a random basis (Gressmann et al., NeurIPS 2020, "Improving neural network training in low dimensional random bases",
// arXiv 2011.04720).
//
// Legend: n weights, d directions, phi_i direction i.
//
//   phi_i[k] = v(byte) / sqrt(n mean(v^2))                                     the expected square of its length is 1
//     group g = k / 256, place e = k % 256; word e / 64 of philox(counter, key), base/random.h,
//       counter = (16 g + e % 16, i, compartment, step), key = the low and high half of seed; byte e % 64 / 16 of it
//     v(byte) = low[byte % 16] + high[byte / 16], whole numbers:
//       normal: 256 equally likely values whose first seven moments are those of N(0, 1) within 0.2 %, within 0.0123 of
//         its distribution, up to 3.04 deviations; signs: +1 and -1 (Rademacher)
//
//   random_basis_dot(gradient [n], first, d, key) -> c [d]:   c_i = phi_(first + i) . gradient
//     float32 products and sums in 64 lanes, k % 64, of each 8192 weights; lanes and then blocks are summed by halves
//     in float64
//   random_basis_add(theta [n], c [d], factor, first, key):   theta += factor * sum over i of c_i phi_(first + i)
//     sums in the order of i, then one product with the factor
//
// Tensors of n numbers may have any shape. seed: any; step, compartment: 0 .. 2^32 - 1; first + d <= 2^31. All of it is
// the same bits on every level, for any number of threads, and in the definition. float32 has a path of its own on CPU;
// float64 sums in float64, bfloat16 and float16 are computed in float32. No gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace loci {

enum class BasisValues : int64_t { normal, signs };

// Names a basis: equal keys are equal directions.
struct BasisKey {
  int64_t seed = 0, step = 0, compartment = 0;
  BasisValues values = BasisValues::normal;
};

at::Tensor random_basis_dot(const at::Tensor& gradient, int64_t first, int64_t directions, const BasisKey& key);
void random_basis_add(const at::Tensor& theta, const at::Tensor& coefficients, double factor, int64_t first,
                      const BasisKey& key);

// The directions themselves [d, n], in memory.
at::Tensor random_basis(int64_t n, int64_t first, int64_t directions, const BasisKey& key,
                        at::ScalarType type = at::kFloat);

}  // namespace loci
