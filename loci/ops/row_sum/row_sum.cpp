// Legend: M references, S sources, D width, U distinct rows, B blocks of at most 128 references of one row.
#include "loci/ops/row_sum/row_sum.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/zeros.h>

#include "loci/ops/operator.h"
#include "loci/ops/row_order/row_order_definition.h"
#include "loci/ops/row_sum/row_sum_definition.h"

namespace loci {

using at::Tensor;

namespace {

// sum[i] = 0 + term(begin[i]) + term(begin[i] + 1) + ..., count[i] terms in sequence, for all i at once.
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

void check_reference_values(const char* who, const RowOrder& order, int64_t sources) {
  const Tensor begins = order.begin.cpu().contiguous(), source = order.source.cpu().contiguous();
  const int64_t* begin = begins.const_data_ptr<int64_t>();
  const int64_t size = source.size(0);
  TORCH_CHECK_INDEX(begin[0] == 0 && begin[order.row.size(0)] == size && first_fall(begins) < 0, who,
                    ": begin must ascend from 0 to ", size, ", got another order");
  const int64_t bad = first_outside(source, sources);
  TORCH_CHECK_INDEX(bad < 0, who, ": source of references must be within 0 .. ", sources - 1, ", got ",
                    source.const_data_ptr<int32_t>()[bad]);
}

}  // namespace

void check_references(const char* who, const RowOrder& order, const Tensor& source) {
  TORCH_CHECK(source.scalar_type() == at::kFloat || source.scalar_type() == at::kDouble, who,
              ": source must be float32 or float64, got ", source.scalar_type());
  TORCH_CHECK(source.dim() == 2, who, ": source must be [S, D], got ", source.sizes());
  TORCH_CHECK(order.coefficient.scalar_type() == source.scalar_type(), who, ": coefficient must have source's dtype ",
              source.scalar_type(), ", got ", order.coefficient.scalar_type());
  TORCH_CHECK(order.row.scalar_type() == at::kLong && order.row.dim() == 1, who, ": row must be int64 [U], got ",
              order.row.scalar_type(), " ", order.row.sizes());
  TORCH_CHECK(
      order.begin.scalar_type() == at::kLong && order.begin.dim() == 1 && order.begin.size(0) == order.row.size(0) + 1,
      who, ": begin must be int64 [", order.row.size(0) + 1, "], got ", order.begin.scalar_type(), " ",
      order.begin.sizes());
  TORCH_CHECK(order.coefficient.dim() == 1 && order.source.scalar_type() == at::kInt &&
                  order.source.sizes() == order.coefficient.sizes(),
              who, ": source of references must be int32 ", order.coefficient.sizes(), " like coefficient, got ",
              order.source.scalar_type(), " ", order.source.sizes());
  check_reference_values(who, order, source.size(0));
}

RowOrder contiguous(const RowOrder& order) {
  return {order.row.contiguous(), order.begin.contiguous(), order.source.contiguous(), order.coefficient.contiguous()};
}

Tensor row_sum_definition(const RowOrder& order, const Tensor& source) {
  check_references("row_sum", order, source);
  const int64_t width = source.size(1);
  if (order.row.size(0) == 0) return at::zeros({0, width}, source.options());
  const Tensor begin = order.begin.slice(0, 0, order.row.size(0));  // [U]
  const Tensor count = order.begin.diff();
  const Tensor blocks = (count + (kRowSumBlock - 1)).floor_divide(kRowSumBlock);
  const Tensor first_block = blocks.cumsum(0) - blocks;
  const Tensor row_of_block = at::repeat_interleave(blocks);  // [B], 0 .. U-1
  const Tensor before =
      (at::arange(row_of_block.size(0), begin.options()) - first_block.index_select(0, row_of_block)) * kRowSumBlock;
  const Tensor block_begin = begin.index_select(0, row_of_block) + before;
  const Tensor block_count = (count.index_select(0, row_of_block) - before).clamp_max(kRowSumBlock);

  const Tensor block_sum =
      sum_in_sequence(block_begin, block_count, width, source.scalar_type(), [&](const Tensor& at_term) {
        return order.coefficient.index_select(0, at_term).unsqueeze(1) *
               source.index_select(0, order.source.index_select(0, at_term).to(at::kLong));
      });
  return sum_in_sequence(first_block, blocks, width, source.scalar_type(),
                         [&](const Tensor& at_term) { return block_sum.index_select(0, at_term); });
}

namespace {

Tensor order_sum_definition(const Tensor& row, const Tensor& begin, const Tensor& source_index,
                            const Tensor& coefficient, const Tensor& source) {
  return row_sum_definition({row, begin, source_index, coefficient}, source);
}

Tensor order_sum_on_meta(const Tensor& row, const Tensor&, const Tensor&, const Tensor&, const Tensor& source) {
  return at::empty_symint({row.sym_size(0), source.sym_size(1)}, source.options());
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m,
                  "row_sum(Tensor row, Tensor begin, Tensor source_index, Tensor coefficient, Tensor source) -> Tensor",
                  order_sum_definition, not_differentiable());
}

TORCH_LIBRARY_IMPL(loci, Meta, m) {
  m.impl("row_sum", order_sum_on_meta);
}

}  // namespace

Tensor row_sum(const RowOrder& order, const Tensor& source) {
  return call_operator<"loci::row_sum", decltype(order_sum_definition)>(order.row, order.begin, order.source,
                                                                        order.coefficient, source);
}

}  // namespace loci
