// Legend: T tokens, K reads of a token, M = all references, D width, U distinct rows.
#include "loci/table/row_gradient.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

#include "loci/ops/row_sum/row_sum.h"

namespace loci {

OrderedReferences order_references(std::vector<RowReferences> references, int64_t width) {
  if (references.empty()) {
    references.push_back(
        {at::empty({0, 1}, at::kLong), at::empty({0, 1}, at::kFloat), at::empty({0, width}, at::kFloat)});
  }
  std::stable_sort(references.begin(), references.end(), [](const RowReferences& a, const RowReferences& b) {
    return std::pair(a.pass, a.use) < std::pair(b.pass, b.use);
  });
  std::vector<at::Tensor> index, weight, grad;
  for (const RowReferences& read : references) {
    index.push_back(read.index);
    weight.push_back(read.weight);
    grad.push_back(read.grad);
  }
  return {row_order(index, weight), grad.size() == 1 ? grad[0].contiguous() : at::cat(grad)};
}

RowGradient sum_references(std::vector<RowReferences> references, int64_t width) {
  const OrderedReferences ordered = order_references(std::move(references), width);
  return {ordered.order.row, row_sum(ordered.order, ordered.source)};
}

}  // namespace loci
