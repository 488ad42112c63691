// The baseline: a product-key memory from stock LibTorch operators alone, each the fastest we know for its part.
// Two top-k a head (not sorted), embedding_bag, a dense gradient of the table, fused Adam over everything.
//
// Legend: T tokens, d width, H heads, w half a key's width, n sub-keys of a half, K top_k, N = n * n rows, D = d.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace loci::bench {

// Fills [N, D] with a drawn block of rows again and again: speed does not ask what rows hold, and drawing takes long.
void fill_rows(at::Tensor rows);

class StockAdam {
 public:
  // One step of each parameter from its gradient, which is cleared.
  void step(const std::vector<at::Tensor>& parameters);

 private:
  struct Moments {
    at::Tensor first, second, count;
  };
  std::vector<std::pair<at::Tensor, Moments>> moments_;
};

class StockMemory {
 public:
  struct Size {
    int64_t width, heads, key_width, top_k, sub_keys;
    bool batch_norm = false;  // of the queries, by feature; else layer norm by half
  };
  explicit StockMemory(const Size& size);

  at::Tensor forward(const at::Tensor& x, bool training = true);  // [T, d] -> [T, d]
  // query [2, H, T, w] -> score, index [T, H * K]
  std::pair<at::Tensor, at::Tensor> search(const at::Tensor& query) const;
  at::Tensor read(const at::Tensor& index, const at::Tensor& weight) const;  // [T, H * K] each -> [T, d]
  // Backward of `output` from `grad`, then one step of Adam; gradients are cleared.
  void train(const at::Tensor& x, const at::Tensor& grad);
  // One step of Adam from the gradients, which are cleared.
  void step();
  // The table's part of it alone: its dense gradient from the reads, then Adam over all rows.
  void update(const at::Tensor& index, const at::Tensor& weight, const at::Tensor& grad);

 private:
  Size size_;
  at::Tensor query_weight_, query_bias_;  // [2 * H * w, d], feature order (half, head, w); [2 * H * w]
  at::Tensor norm_gain_, norm_bias_;      // [w], of batch norm [2 * H * w]
  at::Tensor running_mean_, running_variance_;
  at::Tensor keys_;   // [2 * H, n, w]
  at::Tensor table_;  // [N, d]
  StockAdam adam_;
};

// y = x + batch_norm(W_o memory(x)) on maps.
class StockSideMemory {
 public:
  explicit StockSideMemory(const StockMemory::Size& size);
  at::Tensor forward(const at::Tensor& x, bool training);  // [B, C, height, width] -> the same
  // Backward to x and all parameters, one step of Adam.
  void train(const at::Tensor& x, const at::Tensor& grad);

 private:
  StockMemory memory_;
  at::Tensor output_weight_, norm_gain_, norm_bias_, running_mean_, running_variance_;
  StockAdam adam_;
};

// A 3x3 convolution of as many channels, without bias.
class StockConvolution {
 public:
  explicit StockConvolution(int64_t channels);
  at::Tensor forward(const at::Tensor& x) const;
  void train(const at::Tensor& x, const at::Tensor& grad);

 private:
  at::Tensor weight_;
  StockAdam adam_;
};

}  // namespace loci::bench
