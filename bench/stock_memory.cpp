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
  const int64_t normed = size.batch_norm ? features : w;
  norm_gain_ = torch::ones({normed}).set_requires_grad(true);
  norm_bias_ = drawn({normed}, 0);
  running_mean_ = torch::zeros({normed});
  running_variance_ = torch::ones({normed});
  keys_ = drawn({2 * size.heads, size.sub_keys, w}, 1 / std::sqrt(3.0 * static_cast<double>(w)));
  table_ = torch::empty({size.sub_keys * size.sub_keys, size.width});
  fill_rows(table_);
  table_.set_requires_grad(true);
}

Tensor StockMemory::forward(const Tensor& x, bool training) {
  const int64_t T = x.size(0), H = size_.heads, w = size_.key_width / 2;
  Tensor query = torch::linear(x, query_weight_, query_bias_);
  if (size_.batch_norm) {
    query = torch::batch_norm(query, norm_gain_, norm_bias_, running_mean_, running_variance_, training, 0.1, 1e-5,
                              /*cudnn_enabled=*/false);
  }
  query = query.view({T, 2, H, w});
  if (!size_.batch_norm) query = torch::layer_norm(query, {w}, norm_gain_, norm_bias_);
  const auto [score, index] = search(query.permute({1, 2, 0, 3}));  // [2, H, T, w]
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
  step();
}

void StockMemory::step() {
  adam_.step({query_weight_, query_bias_, norm_gain_, norm_bias_, keys_, table_});
}

void StockMemory::update(const Tensor& index, const Tensor& weight, const Tensor& grad) {
  read(index, weight.detach()).backward(grad);
  adam_.step({table_});
}

StockSideMemory::StockSideMemory(const StockMemory::Size& size)
    : memory_(size),
      output_weight_((torch::randn({size.width, size.width}) / std::sqrt(size.width)).set_requires_grad(true)),
      norm_gain_(torch::zeros({size.width}).set_requires_grad(true)),
      norm_bias_(torch::zeros({size.width}).set_requires_grad(true)),
      running_mean_(torch::zeros({size.width})),
      running_variance_(torch::ones({size.width})) {}

Tensor StockSideMemory::forward(const Tensor& x, bool training) {
  const Tensor tokens = x.permute({0, 2, 3, 1});  // [B, height, width, C]
  const Tensor read = memory_.forward(tokens.reshape({-1, x.size(1)}), training);
  const Tensor y = torch::batch_norm(torch::linear(read, output_weight_), norm_gain_, norm_bias_, running_mean_,
                                     running_variance_, training, 0.1, 1e-5, /*cudnn_enabled=*/false);
  return x + y.view(tokens.sizes()).permute({0, 3, 1, 2});
}

void StockSideMemory::train(const Tensor& x, const Tensor& grad) {
  forward(x, /*training=*/true).backward(grad);
  x.mutable_grad().reset();
  memory_.step();
  adam_.step({output_weight_, norm_gain_, norm_bias_});
}

StockConvolution::StockConvolution(int64_t channels)
    : weight_((torch::randn({channels, channels, 3, 3}) / std::sqrt(9 * channels))
                  .contiguous(at::MemoryFormat::ChannelsLast)
                  .set_requires_grad(true)) {}

Tensor StockConvolution::forward(const Tensor& x) const {
  return torch::conv2d(x, weight_, {}, 1, 1);
}

void StockConvolution::train(const Tensor& x, const Tensor& grad) {
  forward(x).backward(grad);
  x.mutable_grad().reset();
  adam_.step({weight_});
}

void StockAdam::step(const std::vector<Tensor>& parameters) {
  const torch::NoGradGuard no_gradient;
  for (const Tensor& parameter : parameters) {
    auto found =
        std::find_if(moments_.begin(), moments_.end(), [&](const auto& m) { return m.first.is_same(parameter); });
    if (found == moments_.end()) {
      moments_.emplace_back(parameter, Moments{at::zeros_like(parameter), at::zeros_like(parameter), at::zeros({})});
      found = moments_.end() - 1;
    }
    Moments& m = found->second;
    m.count += 1;
    at::_fused_adam_({parameter}, {parameter.grad()}, {m.first}, {m.second}, {}, {m.count}, 1e-3, 0.9, 0.999, 0, 1e-8,
                     false, false);
    parameter.mutable_grad().reset();
  }
}

}  // namespace loci::bench
