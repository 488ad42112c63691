#include "loci/ops/non_local_concat/non_local_concat_cpu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "loci/ops/non_local_concat/non_local_concat_definition.h"
#include "loci/ops/non_local_concat/non_local_concat_kernel.h"
#include "loci/ops/operator.h"
#include "loci/ops/pair_tiles.h"

// Legend: B batch, N queries, M keys, V width of a value, S slices of 64 columns of V.

namespace loci {

using at::Tensor;

namespace {

bool has_walk(const Tensor& a) {
  return (a.scalar_type() == at::kFloat || a.scalar_type() == at::kBFloat16) && a.size(1) <= INT32_MAX;
}

// Bits whose order as integers is that of the numbers; NaN is the greatest.
uint32_t ordered_bits(float x) {
  if (std::isnan(x)) return UINT32_MAX;
  const auto bits = std::bit_cast<uint32_t>(x);
  return bits >> 31 ? ~bits : bits | uint32_t{1} << 31;
}

enum class Order { ascending, descending };

// The order of x [size], equal numbers by position. By integers that hold number and position.
void sort_positions(const float* x, int64_t size, Order order, int32_t* position) {
  std::vector<uint64_t> entry(size);
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t bits = ordered_bits(x[i]);
    entry[i] = static_cast<uint64_t>(order == Order::ascending ? bits : ~bits) << 32 | static_cast<uint64_t>(i);
  }
  std::sort(entry.begin(), entry.end());
  for (int64_t i = 0; i < size; ++i) position[i] = static_cast<int32_t>(entry[i] & UINT32_MAX);
}

// Queries and keys of all samples with their orders. The walk whose queries are the keys has a_order and b_order the
// other way round: both are reversed.
struct SortedPairs {
  Tensor query, key;              // [B, N], [B, M] float32
  Tensor query_order, key_order;  // ascending, descending

  SortedPairs(const Tensor& a, const Tensor& b)
      : query(a.to(at::kFloat).contiguous()),
        key(b.to(at::kFloat).contiguous()),
        query_order(at::empty(query.sizes(), at::kInt)),
        key_order(at::empty(key.sizes(), at::kInt)) {
    const int64_t B = query.size(0), N = query.size(1), M = key.size(1);
    run_pair_tasks(2 * B, [&](int64_t task) {
      const int64_t i = task / 2;
      if (task % 2 == 0) {
        sort_positions(query.const_data_ptr<float>() + i * N, N, Order::ascending,
                       query_order.mutable_data_ptr<int32_t>() + i * N);
      } else {
        sort_positions(key.const_data_ptr<float>() + i * M, M, Order::descending,
                       key_order.mutable_data_ptr<int32_t>() + i * M);
      }
    });
  }

  SortedPairs swapped() const {
    SortedPairs result = *this;
    std::swap(result.query, result.key);
    result.query_order = key_order.flip({1});
    result.key_order = query_order.flip({1});
    return result;
  }
};

struct WalkResults {
  Tensor y;    // [B, N, V] float32, or none
  Tensor dot;  // [B, N] float32, or none
};

// y and dot as of ReluWalk. g [B, M, V], other [B, N, V] or none: float32, contiguous.
WalkResults walk_pairs(const SortedPairs& pairs, const Tensor& g, const Tensor& other, bool wants_y, double scale,
                       CpuLevel level) {
  const int64_t B = pairs.query.size(0), N = pairs.query.size(1), M = pairs.key.size(1), V = g.size(2);
  const int64_t S = (V + kWalkColumns - 1) / kWalkColumns;
  WalkResults results;
  if (wants_y) results.y = at::empty({B, N, V}, at::kFloat);
  const Tensor parts = other.defined() ? at::empty({S, B, N}, at::kDouble) : Tensor();
  const auto walk =
      at_level(level, base::non_local_concat_kernel, avx2::non_local_concat_kernel, avx512::non_local_concat_kernel)
          .walk;
  run_pair_tasks(B * S, [&](int64_t task) {
    const int64_t i = task / S, s = task % S, first = s * kWalkColumns;
    walk({.a = pairs.query.const_data_ptr<float>() + i * N,
          .b = pairs.key.const_data_ptr<float>() + i * M,
          .a_order = pairs.query_order.const_data_ptr<int32_t>() + i * N,
          .b_order = pairs.key_order.const_data_ptr<int32_t>() + i * M,
          .N = N,
          .M = M,
          .g = g.const_data_ptr<float>() + i * M * V + first,
          .other = other.defined() ? other.const_data_ptr<float>() + i * N * V + first : nullptr,
          .y = wants_y ? results.y.mutable_data_ptr<float>() + i * N * V + first : nullptr,
          .dot = other.defined() ? parts.mutable_data_ptr<double>() + (s * B + i) * N : nullptr,
          .stride = V,
          .columns = std::min(kWalkColumns, V - first),
          .scale = scale});
  });
  if (!other.defined()) return results;
  Tensor total = at::zeros({B, N}, at::kDouble);
  for (int64_t s = 0; s < S; ++s) total.add_(parts[s]);  // in their order
  results.dot = total.to(at::kFloat);
  return results;
}

Tensor float_values(const Tensor& x) {
  return x.to(at::kFloat).contiguous();
}

}  // namespace

Tensor non_local_concat_cpu(const Tensor& a, const Tensor& b, const Tensor& g, CpuLevel level) {
  check_non_local_concat("non_local_concat", a, b, g);
  if (!has_walk(a) || !has_walk(b)) return non_local_concat_definition(a, b, g);
  const double scale = 1 / static_cast<double>(b.size(1));
  return walk_pairs(SortedPairs(a, b), float_values(g), Tensor(), /*wants_y=*/true, scale, level).y.to(a.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> non_local_concat_backward_cpu(const Tensor& grad, const Tensor& a, const Tensor& b,
                                                                 const Tensor& g, CpuLevel level) {
  check_non_local_concat_backward(grad, a, b, g);
  if (!has_walk(a) || !has_walk(b)) return non_local_concat_backward_definition(grad, a, b, g);
  const double scale = 1 / static_cast<double>(b.size(1));
  const SortedPairs pairs(a, b);
  const Tensor dy = float_values(grad), value = float_values(g);
  const WalkResults of_queries = walk_pairs(pairs, value, dy, /*wants_y=*/false, scale, level);
  const WalkResults of_keys = walk_pairs(pairs.swapped(), dy, value, /*wants_y=*/true, scale, level);
  const auto type = a.scalar_type();
  return {of_queries.dot.to(type), of_keys.dot.to(type), of_keys.y.to(type)};
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("non_local_concat", at_cpu_level<non_local_concat_cpu>);
  m.impl("non_local_concat_backward", at_cpu_level<non_local_concat_backward_cpu>);
}

}  // namespace loci
