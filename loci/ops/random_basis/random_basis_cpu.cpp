// Legend: n weights, d directions.
#include "loci/ops/random_basis/random_basis_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "loci/ops/operator.h"
#include "loci/ops/random_basis/random_basis_definition.h"
#include "loci/ops/random_basis/random_basis_kernel.h"

namespace loci {

using at::Tensor;

namespace {

static_assert(kBasisGroup == RandomBasisKernel::kGroup && kBasisLanes == RandomBasisKernel::kLanes);
constexpr int64_t kBasisGrain = int64_t{1} << 16;  // numbers of directions worth a thread

const RandomBasisKernel& basis_kernel(CpuLevel level) {
  return at_level(level, base::random_basis_kernel, avx2::random_basis_kernel, avx512::random_basis_kernel);
}

RandomBasisStream basis_stream(const BasisKey& key) {
  const BasisTable& table = basis_table(key.values);
  const auto seed = static_cast<uint64_t>(key.seed);
  return {static_cast<uint32_t>(seed),
          static_cast<uint32_t>(seed >> 32),
          static_cast<uint32_t>(key.compartment),
          static_cast<uint32_t>(key.step),
          table.low.data(),
          table.high.data()};
}

// x [power of two] by halves.
double halved_sum(double* x, int64_t count) {
  for (int64_t left = count / 2; left > 0; left /= 2) {
    for (int64_t i = 0; i < left; ++i) x[i] += x[left + i];
  }
  return x[0];
}

// The sum of a direction's products with a block of weights, of which `tail` has the last ones, padded to a group.
double block_dot(const RandomBasisKernel& kernel, const RandomBasisStream& stream, int64_t direction, int64_t block,
                 const float* gradient, int64_t n, const float* tail) {
  float lanes[kBasisLanes] = {};
  const int64_t begin = block * kBasisBlock, end = std::min(n, begin + kBasisBlock);
  const int64_t groups = (end - begin) / kBasisGroup;
  const auto first = static_cast<uint32_t>(begin / kBasisGroup);
  const auto i = static_cast<uint32_t>(direction);
  kernel.dot(stream, i, first, groups, gradient + begin, lanes);
  if (begin + groups * kBasisGroup < end) kernel.dot(stream, i, first + static_cast<uint32_t>(groups), 1, tail, lanes);
  double wide[kBasisLanes];
  std::copy(lanes, lanes + kBasisLanes, wide);
  return halved_sum(wide, kBasisLanes);
}

Tensor dot_on_cpu(const Tensor& gradient, int64_t first, int64_t directions, int64_t seed, int64_t step,
                  int64_t compartment, int64_t values) {
  return random_basis_dot_cpu(gradient, first, directions, {seed, step, compartment, static_cast<BasisValues>(values)},
                              cpu_level());
}
void add_on_cpu(const Tensor& theta, const Tensor& coefficients, double factor, int64_t first, int64_t seed,
                int64_t step, int64_t compartment, int64_t values) {
  random_basis_add_cpu(theta, coefficients, factor, first, {seed, step, compartment, static_cast<BasisValues>(values)},
                       cpu_level());
}

}  // namespace

// Pieces of work are blocks of weights with one direction each; neighbours share the block.
Tensor random_basis_dot_cpu(const Tensor& gradient, int64_t first, int64_t directions, const BasisKey& key,
                            CpuLevel level) {
  check_random_basis_dot(gradient, first, directions, key);
  if (gradient.scalar_type() != at::kFloat || gradient.numel() == 0) {
    return random_basis_dot_definition(gradient, first, directions, key);
  }
  const Tensor flat = gradient.contiguous();
  const float* const from = flat.const_data_ptr<float>();
  const int64_t n = flat.numel(), blocks = (n + kBasisBlock - 1) / kBasisBlock;
  const auto columns = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(blocks)));
  float tail[kBasisGroup] = {};
  std::copy(from + n / kBasisGroup * kBasisGroup, from + n, tail);
  const RandomBasisKernel& kernel = basis_kernel(level);
  const RandomBasisStream stream = basis_stream(key);

  const Tensor partial = at::zeros({directions, columns}, at::kDouble);
  double* const sums = partial.mutable_data_ptr<double>();
  at::parallel_for(0, blocks * directions, std::max<int64_t>(1, kBasisGrain / std::min(n, kBasisBlock)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t piece = begin; piece < end; ++piece) {
                       const int64_t block = piece / directions, i = piece % directions;
                       sums[i * columns + block] = block_dot(kernel, stream, first + i, block, from, n, tail);
                     }
                   });
  Tensor c = at::empty({directions}, flat.options());
  float* const to = c.mutable_data_ptr<float>();
  const double scale = basis_scale(n, key);
  for (int64_t i = 0; i < directions; ++i) {
    to[i] = static_cast<float>(halved_sum(sums + i * columns, columns) * scale);
  }
  return c;
}

void random_basis_add_cpu(const Tensor& theta, const Tensor& coefficients, double factor, int64_t first,
                          const BasisKey& key, CpuLevel level) {
  check_random_basis_add(theta, coefficients, first, key);
  if (theta.scalar_type() != at::kFloat) return random_basis_add_definition(theta, coefficients, factor, first, key);
  const Tensor values = theta.detach(), flat = values.contiguous(), given = coefficients.contiguous();
  float* const to = flat.mutable_data_ptr<float>();
  const float* const c = given.const_data_ptr<float>();
  const int64_t n = flat.numel(), directions = given.size(0);
  const RandomBasisKernel& kernel = basis_kernel(level);
  const RandomBasisStream stream = basis_stream(key);
  const auto scale = static_cast<float>(factor * basis_scale(n, key));
  at::parallel_for(0, (n + kBasisGroup - 1) / kBasisGroup,
                   std::max<int64_t>(1, kBasisGrain / (kBasisGroup * std::max<int64_t>(1, directions))),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t group = begin; group < end; ++group) {
                       float total[kBasisGroup];
                       kernel.add(stream, static_cast<uint32_t>(first), directions, c, static_cast<uint32_t>(group),
                                  total);
                       const int64_t begun = group * kBasisGroup, count = std::min(kBasisGroup, n - begun);
                       for (int64_t e = 0; e < count; ++e) to[begun + e] += total[e] * scale;
                     }
                   });
  if (!flat.is_same(values)) values.copy_(flat);
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("random_basis_dot", dot_on_cpu);
  m.impl("random_basis_add_", add_on_cpu);
}

}  // namespace loci
