// Legend: M references, S sources, D width, U distinct rows, B blocks of at most 128 references of one row.
#include "loci/ops/row_sum/row_sum.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/unique_consecutive.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "loci/ops/row_sum/row_sum_definition.h"

namespace loci {

void check_row_sum(const at::Tensor& row, const at::Tensor& coefficient, const at::Tensor& source_index,
                   const at::Tensor& source) {
  TORCH_CHECK(row.scalar_type() == at::kLong, "row_sum: row must be int64, got ", row.scalar_type());
  TORCH_CHECK(source_index.scalar_type() == at::kLong, "row_sum: source_index must be int64, got ",
              source_index.scalar_type());
  TORCH_CHECK(source.scalar_type() == at::kFloat || source.scalar_type() == at::kDouble,
              "row_sum: source must be float32 or float64, got ", source.scalar_type());
  TORCH_CHECK(coefficient.scalar_type() == source.scalar_type(), "row_sum: coefficient must have source's dtype ",
              source.scalar_type(), ", got ", coefficient.scalar_type());
  TORCH_CHECK(source.dim() == 2, "row_sum: source must be [S, D], got ", source.sizes());
  TORCH_CHECK(row.dim() == 1, "row_sum: row must be [M], got ", row.sizes());
  TORCH_CHECK(coefficient.sizes() == row.sizes(), "row_sum: coefficient must be ", row.sizes(), " as row is, got ",
              coefficient.sizes());
  TORCH_CHECK(source_index.sizes() == row.sizes(), "row_sum: source_index must be ", row.sizes(), " as row is, got ",
              source_index.sizes());
}

using at::Tensor;

namespace {

// sum[i] = term(begin[i]) + term(begin[i] + 1) + ... in sequence, count[i] terms, from zero; all i side by side.
template <class Term>
Tensor sum_in_sequence(const Tensor& begin, const Tensor& count, int64_t width, at::ScalarType dtype,
                       const Term& term) {
  Tensor sum = at::zeros({begin.size(0), width}, begin.options().dtype(dtype));
  const int64_t longest = begin.size(0) == 0 ? 0 : count.max().item<int64_t>();
  for (int64_t step = 0; step < longest; ++step) {
    const Tensor active = count.gt(step).nonzero().squeeze(1);
    sum.index_copy_(0, active, sum.index_select(0, active) + term(begin.index_select(0, active) + step));
  }
  return sum;
}

}  // namespace

std::tuple<Tensor, Tensor> row_sum_definition(const Tensor& row, const Tensor& coefficient, const Tensor& source_index,
                                              const Tensor& source) {
  check_row_sum(row, coefficient, source_index, source);
  const int64_t width = source.size(1);
  const Tensor kept = coefficient.ne(0).nonzero().squeeze(1);
  if (kept.size(0) == 0) return {at::empty({0}, row.options()), at::empty({0, width}, source.options())};
  const auto [sorted, order] = at::sort(row.index_select(0, kept), /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Tensor position = kept.index_select(0, order);  // [M], of the references in order of their rows
  TORCH_CHECK_INDEX(sorted[0].item<int64_t>() >= 0, "row_sum: row must be at least 0, got ", sorted[0].item<int64_t>());

  const auto [distinct, inverse, count] = at::unique_consecutive(sorted, /*return_inverse=*/false,
                                                                 /*return_counts=*/true);
  const Tensor begin = count.cumsum(0) - count;  // [U]
  const Tensor blocks = (count + (kRowSumBlock - 1)).floor_divide(kRowSumBlock);
  const Tensor first_block = blocks.cumsum(0) - blocks;
  const Tensor row_of_block = at::repeat_interleave(blocks);  // [B], 0 .. U-1
  const Tensor before =
      (at::arange(row_of_block.size(0), row.options()) - first_block.index_select(0, row_of_block)) * kRowSumBlock;
  const Tensor block_begin = begin.index_select(0, row_of_block) + before;
  const Tensor block_count = (count.index_select(0, row_of_block) - before).clamp_max(kRowSumBlock);

  const Tensor block_sum =
      sum_in_sequence(block_begin, block_count, width, source.scalar_type(), [&](const Tensor& place) {
        const Tensor reference = position.index_select(0, place);
        return coefficient.index_select(0, reference).unsqueeze(1) *
               source.index_select(0, source_index.index_select(0, reference));
      });
  const Tensor gradient =
      sum_in_sequence(first_block, blocks, width, source.scalar_type(),
                      [&](const Tensor& place) { return block_sum.index_select(0, place); });
  return {distinct, gradient};
}

namespace {

TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def("row_sum(Tensor row, Tensor coefficient, Tensor source_index, Tensor source) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(loci, CompositeExplicitAutograd, m) { m.impl("row_sum", row_sum_definition); }

}  // namespace

std::tuple<at::Tensor, at::Tensor> row_sum(const at::Tensor& row, const at::Tensor& coefficient,
                                           const at::Tensor& source_index, const at::Tensor& source) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("loci::row_sum", "")
                             .typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                               const Tensor&)>();
  return op.call(row, coefficient, source_index, source);
}

}  // namespace loci
