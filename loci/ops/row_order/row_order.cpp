// Legend: M references, U distinct rows.
#include "loci/ops/row_order/row_order.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/unique_consecutive.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "loci/ops/operator.h"
#include "loci/ops/row_order/row_order_definition.h"

namespace loci {

using at::Tensor;

void check_row_order(at::TensorList index, at::TensorList weight) {
  TORCH_CHECK(!index.empty() && index.size() == weight.size(),
              "row_order: index and weight must be lists of one length, at least 1, got ", index.size(), " and ",
              weight.size());
  int64_t tokens = 0;
  for (size_t i = 0; i < index.size(); ++i) {
    TORCH_CHECK(index[i].scalar_type() == at::kLong, "row_order: index must be int64, got ", index[i].scalar_type());
    TORCH_CHECK(index[i].dim() == 2, "row_order: index must be [T, K], got ", index[i].sizes());
    TORCH_CHECK(weight[i].sizes() == index[i].sizes(), "row_order: weight must be ", index[i].sizes(),
                " like index, got ", weight[i].sizes());
    TORCH_CHECK(weight[i].scalar_type() == at::kFloat || weight[i].scalar_type() == at::kDouble,
                "row_order: weight must be float32 or float64, got ", weight[i].scalar_type());
    TORCH_CHECK(weight[i].scalar_type() == weight[0].scalar_type(), "row_order: weights must have one dtype, ",
                weight[0].scalar_type(), ", got ", weight[i].scalar_type());
    tokens += index[i].size(0);
  }
  TORCH_CHECK(tokens <= std::numeric_limits<int32_t>::max(), "row_order: tokens must be below 2^31, got ", tokens);
}

RowOrder row_order_definition(at::TensorList index, at::TensorList weight) {
  check_row_order(index, weight);
  std::vector<Tensor> rows, coefficients, sources;
  int64_t tokens = 0;
  for (size_t i = 0; i < index.size(); ++i) {
    rows.push_back(index[i].reshape(-1));
    coefficients.push_back(weight[i].reshape(-1));
    const int64_t end = tokens + index[i].size(0);
    sources.push_back(at::arange(tokens, end, index[i].options()).unsqueeze(1).expand(index[i].sizes()).reshape(-1));
    tokens = end;
  }
  const Tensor row = at::cat(rows), coefficient = at::cat(coefficients), source = at::cat(sources);
  if (row.size(0) > 0) {
    const auto least = row.min().item<int64_t>();
    TORCH_CHECK_INDEX(least >= 0, "row_order: row must be at least 0, got ", least);
  }
  const Tensor kept = coefficient.ne(0).nonzero().squeeze(1);
  if (kept.size(0) == 0) {
    return {at::empty({0}, row.options()), at::zeros({1}, row.options()), at::empty({0}, row.options().dtype(at::kInt)),
            at::empty({0}, coefficient.options())};
  }
  const auto [sorted, order] = at::sort(row.index_select(0, kept), /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Tensor position = kept.index_select(0, order);  // [M], of the references in order of their rows
  const auto [distinct, inverse, count] = at::unique_consecutive(sorted, /*return_inverse=*/false,
                                                                 /*return_counts=*/true);
  return {distinct, at::cat({at::zeros({1}, row.options()), count.cumsum(0)}),
          source.index_select(0, position).to(at::kInt), coefficient.index_select(0, position)};
}

namespace {

using RowOrderTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

RowOrderTensors row_order_tensors(at::TensorList index, at::TensorList weight) {
  const RowOrder order = row_order_definition(index, weight);
  return {order.row, order.begin, order.source, order.coefficient};
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "row_order(Tensor[] index, Tensor[] weight) -> (Tensor, Tensor, Tensor, Tensor)",
                  row_order_tensors, not_differentiable(), at::Tag::dynamic_output_shape);
}

}  // namespace

RowOrder row_order(at::TensorList index, at::TensorList weight) {
  auto [row, begin, source, coefficient] = call_operator<"loci::row_order", decltype(row_order_tensors)>(index, weight);
  return {row, begin, source, coefficient};
}

}  // namespace loci
