// From what a memory receives to its queries. A memory is given its query net, or makes an MlpQueryNet.
//
// Legend: T tokens, d width, H heads, w width of half a query.
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <string>
#include <vector>

namespace loci {

class QueryNet : public torch::nn::Module {
 public:
  using torch::nn::Module::Module;
  // x [T, d] -> [T, H * 2w], feature order (head, half, w). The memory normalises them.
  virtual at::Tensor forward(const at::Tensor& x) = 0;
  // The queries [T', H * 2w] of the tokens of x [..., d] at `positions` [T'] (undefined: of all). A net whose queries
  // depend on a token's neighbours overrides it; the others are given the tokens that count and nothing else.
  virtual at::Tensor at_positions(const at::Tensor& x, const at::Tensor& positions);
};

// Linear maps with ReLU between them; a single one without hidden widths. Under autocast they run in its type,
// otherwise in that of the parameters.
class MlpQueryNet : public QueryNet {
 public:
  // `widths`: of the input, of the hidden layers, of the output. Weights and biases start as the framework's linear
  // layers, by counter from (seed, `name`, layer, position). Before batch norm the last bias is a buffer: the batch's
  // mean takes it away, its gradient would be what rounding leaves of 0, and Adam would scale that to full steps. (It
  // is of use for calibration: it keeps a large mean out of queries that are rounded to bfloat16.)
  MlpQueryNet(const std::string& name, const std::vector<int64_t>& widths, bool train_last_bias, uint64_t seed);

  at::Tensor forward(const at::Tensor& x) override;

  // Of each map: [outputs, inputs] and [outputs].
  std::vector<at::Tensor> weight, bias;
};

// The queries are the input: for width = heads * key_width.
class IdentityQueryNet : public QueryNet {
 public:
  IdentityQueryNet() : QueryNet("IdentityQueryNet") {}
  at::Tensor forward(const at::Tensor& x) override { return x; }
};

}  // namespace loci
