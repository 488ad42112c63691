// The memory layer in a few differentiable lines of plain tensor code, over all addresses: for tests.
//
// Legend: T tokens, H heads, w half a key's width, A addresses, K top_k, D width of a row.
#pragma once

#include <torch/torch.h>

#include <cmath>

#include "loci/nn/memory/flat_key_memory.h"
#include "loci/nn/memory/peer_memory.h"
#include "loci/nn/memory/product_key_memory.h"

namespace loci {

inline at::Tensor reference_query(const MemoryLayer& m, const at::Tensor& x) {
  const auto& o = m.options();
  at::Tensor q = x;  // [T, d]
  if (const auto* net = dynamic_cast<const MlpQueryNet*>(m.query_net.get())) {
    for (size_t i = 0; i < net->weight.size(); ++i) {
      q = at::matmul(i == 0 ? q : q.clamp_min(0), net->weight[i].t()) + net->bias[i];
    }
  }
  q = q.view({x.size(0), o.heads, 2, -1});
  const int64_t over = o.query_norm == QueryNorm::batch ? 0 : 3;
  if (o.query_norm == QueryNorm::layer || o.query_norm == QueryNorm::batch) {
    q = (q - q.mean(over, true)) / (q.var(over, /*unbiased=*/false, true) + 1e-5).sqrt() * m.norm.gain + m.norm.bias;
  }
  if (o.query_norm == QueryNorm::center) q = q - q.detach().mean(0, true);
  if (o.query_norm == QueryNorm::rms) q = q / (q.pow(2).mean(over, true) + 1e-5).sqrt() * m.norm.gain;
  return q;
}

// all_scores [T, H, A] -> output [T, d]. `values` [R, D] stands for the table, `down` [R, d] for PEER's other one.
inline at::Tensor reference_read(const MemoryLayer& m, const at::Tensor& x, const at::Tensor& all_scores,
                                 const at::Tensor& values, const at::Tensor& down = {}) {
  const auto& o = m.options();
  const auto [score, address] = all_scores.topk(o.top_k, -1, /*largest=*/true, /*sorted=*/true);
  at::Tensor weight = score.clamp_min(0);
  if (o.weight == WeightFunction::softmax) weight = score.exp() / score.exp().sum(-1, true);
  if (o.weight == WeightFunction::sigmoid) weight = 1 / (1 + (-score).exp());
  const at::Tensor row = (address + o.row_offset).remainder(m.table()->rows());
  if (down.defined()) {
    const at::Tensor h = (down.index({row}) * x.unsqueeze(1).unsqueeze(1)).sum(-1);  // [T, H, K]
    weight = weight * 0.5 * h * (1 + (h / std::sqrt(2.0)).erf());
  }
  const at::Tensor read = values.index({row});                     // [T, H, K, D]
  const at::Tensor y = (weight.unsqueeze(-1) * read).sum({1, 2});  // [T, D]
  if (o.output == OutputMap::none) return y;
  if (o.output == OutputMap::projection) return at::matmul(y, m.output_map.weight.t()) + m.output_map.bias;
  const at::Tensor gate = at::matmul(x, m.output_map.gate.t());
  return at::matmul(y * gate / (1 + (-gate).exp()), m.output_map.weight.t()) + m.output_map.bias;
}

inline at::Tensor reference_unit(const at::Tensor& x) {
  return x / x.pow(2).sum(-1, true).sqrt();
}

inline at::Tensor reference_forward(const ProductKeyMemory& m, const at::Tensor& x, const at::Tensor& values,
                                    const at::Tensor& down = {}) {
  const auto& o = m.options();
  at::Tensor q = reference_query(m, x), keys1 = m.keys1, keys2 = m.keys2;
  if (o.normalise_keys) {
    q = reference_unit(q) * m.temperature.view({-1, 1, 1});
    keys1 = reference_unit(keys1);
    keys2 = reference_unit(keys2);
  }
  const at::Tensor score1 = at::einsum("thw,hnw->thn", {q.select(2, 0), keys1});
  const at::Tensor score2 = at::einsum("thw,hnw->thn", {q.select(2, 1), keys2});
  at::Tensor all = (score1.unsqueeze(3) + score2.unsqueeze(2)).flatten(2);  // [T, H, n1 * n2]
  if (m.addressing() == RowAddressing::mask) all = all.narrow(2, 0, values.size(0));
  return reference_read(m, x, all, values, down);
}

inline at::Tensor reference_forward(const FlatKeyMemory& m, const at::Tensor& x, const at::Tensor& values) {
  const auto& o = m.options();
  at::Tensor q = reference_query(m, x), keys = m.keys.view({o.heads, values.size(0), 2, -1});
  if (o.normalise_keys) {
    q = reference_unit(q) * m.temperature.view({-1, 1, 1});
    keys = reference_unit(keys);
  }
  return reference_read(m, x, at::einsum("thpw,hnpw->thn", {q, keys}), values);
}

}  // namespace loci
