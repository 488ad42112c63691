// Legend: T tokens, K reads of a token, M = all references, D width, U distinct rows.
#include "loci/table/row_gradient.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/repeat_interleave.h>

#include <algorithm>
#include <utility>

#include "loci/ops/row_sum/row_sum.h"

namespace loci {

RowGradient sum_references(std::vector<RowReferences> references, int64_t width) {
  if (references.empty()) return {at::empty({0}, at::kLong), at::empty({0, width}, at::kFloat)};
  std::stable_sort(references.begin(), references.end(), [](const RowReferences& a, const RowReferences& b) {
    return std::pair(a.pass, a.use) < std::pair(b.pass, b.use);
  });
  std::vector<at::Tensor> row, weight, token, grad;
  int64_t tokens = 0;
  for (const RowReferences& read : references) {
    row.push_back(read.index.reshape(-1));
    weight.push_back(read.weight.reshape(-1));
    grad.push_back(read.grad);
    token.push_back(at::arange(tokens, tokens + read.grad.size(0), read.index.options())
                        .unsqueeze(1)
                        .expand(read.index.sizes())
                        .reshape(-1));
    tokens += read.grad.size(0);
  }
  const auto joined = [](const std::vector<at::Tensor>& parts) { return parts.size() == 1 ? parts[0] : at::cat(parts); };
  auto [distinct, gradient] = row_sum(joined(row), joined(weight), joined(token), joined(grad));
  return {distinct, gradient};
}

}  // namespace loci
