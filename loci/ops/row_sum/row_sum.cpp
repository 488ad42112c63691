// Legend: M references, S sources, D width, U distinct rows, B blocks of at most 128 references of one row.
#include "loci/ops/row_sum/row_sum.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "loci/ops/row_order/row_order_definition.h"
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
      sum_in_sequence(block_begin, block_count, width, source.scalar_type(), [&](const Tensor& place) {
        return order.coefficient.index_select(0, place).unsqueeze(1) *
               source.index_select(0, order.source.index_select(0, place).to(at::kLong));
      });
  return sum_in_sequence(first_block, blocks, width, source.scalar_type(),
                         [&](const Tensor& place) { return block_sum.index_select(0, place); });
}

std::tuple<Tensor, Tensor> row_sum_definition(const Tensor& row, const Tensor& coefficient, const Tensor& source_index,
                                              const Tensor& source) {
  check_row_sum(row, coefficient, source_index, source);
  const RowOrder order = order_references_definition("row_sum", row, coefficient, source_index);
  return {order.row, row_sum_definition(order, source)};
}

namespace {

TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def("row_sum(Tensor row, Tensor coefficient, Tensor source_index, Tensor source) -> (Tensor, Tensor)");
  m.def("row_sum.order(Tensor row, Tensor begin, Tensor source_index, Tensor coefficient, Tensor source) -> Tensor");
}

Tensor order_entry(const Tensor& row, const Tensor& begin, const Tensor& source_index, const Tensor& coefficient,
                   const Tensor& source) {
  return row_sum_definition({row, begin, source_index, coefficient}, source);
}

using RowSumDefinition = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&);

TORCH_LIBRARY_IMPL(loci, CompositeExplicitAutograd, m) {
  m.impl("row_sum", static_cast<RowSumDefinition*>(row_sum_definition));
  m.impl("row_sum.order", order_entry);
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> row_sum(const at::Tensor& row, const at::Tensor& coefficient,
                                           const at::Tensor& source_index, const at::Tensor& source) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("loci::row_sum", "")
          .typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&)>();
  return op.call(row, coefficient, source_index, source);
}

at::Tensor row_sum(const RowOrder& order, const at::Tensor& source) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("loci::row_sum", "order")
          .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&)>();
  return op.call(order.row, order.begin, order.source, order.coefficient, source);
}

}  // namespace loci
