// Legend: B batch, L positions, n orders, K columns.
#include "loci/ops/ngram_hash/ngram_hash.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <vector>

#include "loci/ops/operator.h"

namespace loci {
namespace {

using at::Tensor;

void check_ngram_hash(const Tensor& tokens, const Tensor& starts, const Tensor& multipliers, at::IntArrayRef orders,
                      const Tensor& modulus, const Tensor& offset) {
  TORCH_CHECK(tokens.dim() == 2 && tokens.scalar_type() == at::kLong, "ngram_hash: tokens must be int64 [B, L], got ",
              tokens.scalar_type(), " ", tokens.sym_sizes());
  TORCH_CHECK(starts.scalar_type() == at::kBool && starts.sym_sizes() == tokens.sym_sizes(),
              "ngram_hash: starts must be bool ", tokens.sym_sizes(), " like tokens, got ", starts.scalar_type(), " ",
              starts.sym_sizes());
  TORCH_CHECK(multipliers.dim() == 1 && multipliers.scalar_type() == at::kLong,
              "ngram_hash: multipliers must be int64 [n], got ", multipliers.scalar_type(), " ",
              multipliers.sym_sizes());
  for (const int64_t order : orders) {
    TORCH_CHECK(order >= 1 && order <= multipliers.size(0), "ngram_hash: orders must be within 1 .. ",
                multipliers.size(0), " (the multipliers), got ", order);
  }
  const auto columns = static_cast<int64_t>(orders.size());
  for (const auto& [name, column] : {std::pair("modulus", modulus), std::pair("offset", offset)}) {
    TORCH_CHECK(column.dim() == 1 && column.scalar_type() == at::kLong && column.sym_size(0) == columns,
                "ngram_hash: ", name, " must be int64 [", columns, "] (one for each of orders), got ",
                column.scalar_type(), " ", column.sym_sizes());
  }
}

Tensor ngram_hash_definition(const Tensor& tokens, const Tensor& starts, const Tensor& multipliers,
                             at::IntArrayRef orders, const Tensor& modulus, const Tensor& offset, int64_t pad) {
  check_ngram_hash(tokens, starts, multipliers, orders, modulus, offset);
  const c10::SymInt length = tokens.sym_size(1);
  if (orders.empty()) return at::empty_symint({tokens.sym_size(0), length, 0}, tokens.options());
  const int64_t longest = *std::max_element(orders.begin(), orders.end());
  const auto before = [&](const Tensor& x,
                          int64_t positions) {  // x is padded at its front: [B, L], `positions` earlier
    return x.narrow_symint(1, longest - 1 - positions, length);
  };
  const Tensor padded_tokens = at::constant_pad_nd(tokens, {longest - 1, 0}, pad);  // [B, longest - 1 + L]
  const Tensor padded_starts = at::constant_pad_nd(starts, {longest - 1, 0}, false);

  Tensor hash = tokens * multipliers.select(0, 0);  // [B, L]
  Tensor earlier;                                   // whether the token i positions before is of an earlier document
  std::vector<Tensor> hash_of_order = {hash};
  for (int64_t i = 1; i < longest; ++i) {
    const Tensor begins = before(padded_starts, i - 1);
    earlier = earlier.defined() ? earlier.logical_or(begins) : begins;
    hash = hash.bitwise_xor(before(padded_tokens, i).masked_fill(earlier, pad) * multipliers.select(0, i));
    hash_of_order.push_back(hash);
  }
  std::vector<Tensor> hash_of_column;
  for (const int64_t order : orders) hash_of_column.push_back(hash_of_order[static_cast<size_t>(order - 1)]);
  return at::stack(hash_of_column, -1).remainder(modulus) + offset;
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m,
                  "ngram_hash(Tensor tokens, Tensor starts, Tensor multipliers, int[] orders, Tensor modulus, Tensor"
                  " offset, int pad) -> Tensor",
                  ngram_hash_definition, not_differentiable());
}

}  // namespace

Tensor ngram_hash(const Tensor& tokens, const Tensor& starts, const Tensor& multipliers, at::IntArrayRef orders,
                  const Tensor& modulus, const Tensor& offset, int64_t pad) {
  return call_operator<"loci::ngram_hash", decltype(ngram_hash_definition)>(tokens, starts, multipliers, orders,
                                                                            modulus, offset, pad);
}

}  // namespace loci
