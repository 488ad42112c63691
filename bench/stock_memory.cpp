#include "bench/stock_memory.h"

#include <torch/torch.h>

namespace loci::bench {

using torch::Tensor;

void fill_rows(Tensor rows) {
  const int64_t block = 4096;
  const Tensor drawn = torch::randn({block, rows.size(1)}) * 0.04;
  for (int64_t first = 0; first < rows.size(0); first += block) {
    const int64_t count = std::min(block, rows.size(0) - first);
    rows.narrow(0, first, count).copy_(drawn.narrow(0, 0, count));
  }
}

StockMemory::StockMemory(const Size& size) : size_(size) {
  const int64_t w = size.key_width / 2, features = 2 * size.heads * w;
  const auto drawn = [](std::vector<int64_t> shape, double std) {
    return (torch::randn(shape) * std).set_requires_grad(true);
  };
  query_weight_ = drawn({features, size.width}, 1 / std::sqrt(size.width));
  query_bias_ = drawn({features}, 0);
  norm_gain_ = torch::ones({w}).set_requires_grad(true);
  norm_bias_ = drawn({w}, 0);
  keys_ = drawn({2 * size.heads, size.sub_keys, w}, 1 / std::sqrt(3.0 * static_cast<double>(w)));
  table_ = torch::empty({size.sub_keys * size.sub_keys, size.width});
  fill_rows(table_);
  table_.set_requires_grad(true);
}

Tensor StockMemory::forward(const Tensor& x) {
  const int64_t T = x.size(0), H = size_.heads, w = size_.key_width / 2;
  Tensor query = torch::linear(x, query_weight_, query_bias_).view({T, 2, H, w});
  query = torch::layer_norm(query, {w}, norm_gain_, norm_bias_).permute({1, 2, 0, 3});  // [2, H, T, w]
  const auto [score, index] = search(query);
  return read(index, score.view({T, H, size_.top_k}).softmax(-1).view({T, -1}));
}

std::pair<Tensor, Tensor> StockMemory::search(const Tensor& query) const {
  const int64_t T = query.size(2), H = size_.heads, K = size_.top_k, w = size_.key_width / 2;
  const Tensor scores = query.reshape({2 * H, T, w}).bmm(keys_.transpose(1, 2));  // [2 H, T, n]
  const auto [half_score, half_index] = scores.topk(K, -1, true, false);          // [2 H, T, K]
  const Tensor score1 = half_score.narrow(0, 0, H), score2 = half_score.narrow(0, H, H);
  const Tensor index1 = half_index.narrow(0, 0, H), index2 = half_index.narrow(0, H, H);
  const Tensor grid = (score1.unsqueeze(3) + score2.unsqueeze(2)).view({H, T, K * K});
  const auto [score, place] = grid.topk(K, -1, true, false);  // [H, T, K]
  const Tensor index = index1.gather(2, place.div(K, "floor")) * size_.sub_keys + index2.gather(2, place.remainder(K));
  const auto by_token = [&](const Tensor& x) { return x.transpose(0, 1).reshape({T, H * K}); };
  return {by_token(score), by_token(index)};
}

Tensor StockMemory::read(const Tensor& index, const Tensor& weight) const {
  const int64_t T = index.size(0), M = index.size(1);
  const Tensor offset = torch::arange(0, T * M, M, torch::kLong);
  return std::get<0>(at::embedding_bag(table_, index.reshape({-1}), offset, false, 0, false, weight.reshape({-1})));
}

void StockMemory::train(const Tensor& x, const Tensor& grad) {
  forward(x).backward(grad);
  for (const Tensor& parameter : {query_weight_, query_bias_, norm_gain_, norm_bias_, keys_, table_}) {
    adam(parameter, parameter.grad());
    parameter.mutable_grad().reset();
  }
}

void StockMemory::update(const Tensor& index, const Tensor& weight, const Tensor& grad) {
  read(index, weight.detach()).backward(grad);
  adam(table_, table_.grad());
  table_.mutable_grad().reset();
}

void StockMemory::adam(const Tensor& parameter, const Tensor& grad) {
  const torch::NoGradGuard no_gradient;
  auto found =
      std::find_if(moments_.begin(), moments_.end(), [&](const auto& m) { return m.first.is_same(parameter); });
  if (found == moments_.end()) {
    moments_.emplace_back(parameter, Moments{at::zeros_like(parameter), at::zeros_like(parameter), at::zeros({})});
    found = moments_.end() - 1;
  }
  Moments& m = found->second;
  m.count += 1;
  at::_fused_adam_({parameter}, {grad}, {m.first}, {m.second}, {}, {m.count}, 1e-3, 0.9, 0.999, 0, 1e-8, false, false);
}

}  // namespace loci::bench
