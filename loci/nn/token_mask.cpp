#include "loci/nn/token_mask.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <vector>

namespace loci {

using at::Tensor;

Tensor valid_positions(const std::string& who, int64_t tokens, const BlockContext& context) {
  const Tensor& mask = context.token_mask;
  if (!mask.defined()) return {};
  TORCH_CHECK(mask.scalar_type() == at::kBool && mask.numel() == tokens, who, ": token_mask must be bool with ", tokens,
              " entries, one per token, got ", mask.scalar_type(), " ", mask.sizes());
  Tensor positions = mask.reshape({tokens}).nonzero().squeeze(1);
  if (positions.size(0) == tokens) return {};
  return positions;
}

Tensor take_tokens(const Tensor& x, const Tensor& positions) {
  return positions.defined() ? x.index_select(0, positions) : x;
}

Tensor put_tokens(const Tensor& y, const Tensor& positions, int64_t tokens) {
  if (!positions.defined()) return y;
  std::vector<int64_t> sizes = y.sizes().vec();
  sizes[0] = tokens;
  return at::zeros(sizes, y.options()).index_copy(0, positions, y);
}

}  // namespace loci
