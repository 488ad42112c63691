// Legend: T tokens, H heads, K top_k, M = T * H * K reads, N rows, U distinct rows read.
#include "loci/ops/usage_add/usage_add.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique2.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <limits>

#include "loci/ops/operator.h"
#include "loci/ops/table_read/table_read_definition.h"
#include "loci/ops/usage_add/usage_add_definition.h"

namespace loci {

using at::Tensor;

void check_usage_add(const Tensor& counters, const Tensor& index, const Tensor& weight, int64_t window, int64_t step) {
  TORCH_CHECK(counters.scalar_type() == at::kInt && counters.dim() == 2 && counters.sym_size(1) == 3,
              "usage_add: counters must be int32 [N, 3], got ", counters.scalar_type(), " ", counters.sym_sizes());
  TORCH_CHECK(counters.is_contiguous(), "usage_add: counters must be contiguous, got strides ", counters.sym_strides());
  TORCH_CHECK(index.scalar_type() == at::kLong && index.dim() == 3, "usage_add: index must be int64 [T, H, K], got ",
              index.scalar_type(), " ", index.sym_sizes());
  TORCH_CHECK(weight.scalar_type() == at::kFloat && weight.sym_sizes() == index.sym_sizes(),
              "usage_add: weight must be float32 ", index.sym_sizes(), " like index, got ", weight.scalar_type(), " ",
              weight.sym_sizes());
  TORCH_CHECK(index.device() == counters.device() && weight.device() == counters.device(),
              "usage_add: index and weight must be on ", counters.device(), " like counters, got ", index.device(),
              " and ", weight.device());
  TORCH_CHECK(window >= 0 && window <= step, "usage_add: window must be within 0 .. step = ", step, ", got ", window);
  TORCH_CHECK(step < std::numeric_limits<int32_t>::max(), "usage_add: step must be below 2^31 - 1, got ", step);
}

namespace {

// [T * H, 1] int64: the rank of the heaviest read of each token and head.
Tensor heaviest_ranks(const Tensor& weight) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const Tensor ranked = weight.reshape({-1, weight.size(2)});  // [T * H, K]
  const Tensor nan = ranked.isnan();
  const Tensor first = at::where(nan, infinity, ranked).slice(1, 0, 1);  // nothing is heavier than a NaN
  const Tensor others = at::where(nan, -infinity, ranked).slice(1, 1);   // which is heavier than nothing
  return at::cat({first, others}, 1).argmax(1, /*keepdim=*/true);
}

}  // namespace

// On Meta, for compilation and export, it checks alone.
void usage_add_definition(const Tensor& counters, const Tensor& index, const Tensor& weight, int64_t window,
                          int64_t step) {
  check_usage_add(counters, index, weight, window, step);
  if (counters.is_meta()) return;
  check_index_range("usage_add", counters, index);
  if (index.numel() == 0) return;
  const auto [row, position, added] =
      at::_unique2(index.reshape(-1), /*sorted=*/true, /*return_inverse=*/true, /*return_counts=*/true);  // [U] [M] [U]
  const Tensor stored = counters.index_select(0, row);                                                    // [U, 3]
  const Tensor before = at::where(stored.slice(1, 2).gt(window), stored, 0);

  constexpr auto most = static_cast<int64_t>(RowUsage::kMostReads);
  const Tensor reads = (before.select(1, 0).bitwise_and(most) + added).clamp_max(most).to(at::kInt);
  Tensor heaviest = before.select(1, 0).lt(0);  // the highest bit
  const Tensor heaviest_position = position.view({-1, index.size(2)}).gather(1, heaviest_ranks(weight));
  heaviest.index_fill_(0, heaviest_position.view(-1), true);
  const Tensor counts = reads.bitwise_or(heaviest.to(at::kInt) * std::numeric_limits<int32_t>::min());

  const Tensor sum = before.select(1, 1).view(at::kFloat).index_add(0, position, weight.reshape(-1));  // in order
  const Tensor touched = at::full_like(counts, step + 1);
  counters.index_copy_(0, row, at::stack({counts, sum.view(at::kInt), touched}, 1));
}

void usage_add(const Tensor& counters, const Tensor& index, const Tensor& weight, int64_t window, int64_t step) {
  call_operator<"loci::usage_add_", decltype(usage_add)>(counters, index, weight, window, step);
}

// Counting has no gradient, and the weights that it counts may require one: autograd lets it pass.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "usage_add_(Tensor(a!) counters, Tensor index, Tensor weight, int window, int step) -> ()",
                  usage_add_definition, torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(loci, ADInplaceOrView, m) {
  m.impl("usage_add_", moves_versions());
}

}  // namespace loci
