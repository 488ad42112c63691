// Queries of a feature map: each from the neighbourhood of its position, by convolutions with "same" padding.
//
// Legend: B batch, C channels, T positions of all maps, T' those whose mask is true, H heads, w width of half a query.
//
//   x_0 = x,  x_i = relu(batch_norm(convolution_i(x_{i-1}))) between kernels,  query = convolution_last(x) + bias
//
// Positions whose mask is false count as padding: 0 in front of every convolution, outside the statistics of the norms.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "loci/nn/memory/memory_formula.h"
#include "loci/nn/memory/query_net.h"

namespace loci {

class ConvolutionQueryNet : public QueryNet {
 public:
  // `dimensions` of space and time, at most 3. `kernels`: odd edges, one a convolution (1 with dimensions 0).
  // `channels`: of the input, between the kernels, of the queries. Weights and the last bias start as the framework's
  // convolutions, by counter from (seed, `name`, layer, position); for the last bias see MlpQueryNet. Throws Error
  // (usage).
  ConvolutionQueryNet(const std::string& name, int64_t dimensions, const std::vector<int64_t>& kernels,
                      const std::vector<int64_t>& channels, bool train_last_bias, uint64_t seed);

  // x [B, ..., C] -> [T, H * 2w], height first.
  at::Tensor forward(const at::Tensor& x) override;
  at::Tensor at_positions(const at::Tensor& x, const at::Tensor& positions) override;

  std::vector<at::Tensor> weight;  // of each convolution, [outputs, inputs, kernel, ...]
  at::Tensor bias;                 // [H * 2w], of the last
  std::vector<NormTensors> norm;   // [outputs], of all others

 private:
  at::Tensor convolved(const at::Tensor& x, size_t layer) const;  // [B, ..., inputs] -> [B, ..., outputs]

  int64_t dimensions_;
};

}  // namespace loci
