// What the definitions of random_basis.h share with their CPU path and with tests.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

#include "loci/ops/random_basis/random_basis.h"

namespace loci {

// v(byte) = low[byte % 16] + high[byte / 16].
struct BasisTable {
  std::array<int8_t, 16> low, high;
  double mean_square;
};
const BasisTable& basis_table(BasisValues values);

constexpr int64_t kBasisGroup = 256, kBasisLanes = 64;
constexpr int64_t kBasisBlock = 8192;  // weights whose 64 sums of a dot are float32

// 1 / sqrt(n mean(v^2)).
double basis_scale(int64_t n, const BasisKey& key);

void check_random_basis_dot(const at::Tensor& gradient, int64_t first, int64_t directions, const BasisKey& key);
void check_random_basis_add(const at::Tensor& theta, const at::Tensor& coefficients, int64_t first,
                            const BasisKey& key);

// The whole numbers v [d, n].
at::Tensor basis_values(int64_t n, int64_t first, int64_t directions, const BasisKey& key, const at::Tensor& like);

at::Tensor random_basis_dot_definition(const at::Tensor& gradient, int64_t first, int64_t directions,
                                       const BasisKey& key);
void random_basis_add_definition(const at::Tensor& theta, const at::Tensor& coefficients, double factor, int64_t first,
                                 const BasisKey& key);

}  // namespace loci
