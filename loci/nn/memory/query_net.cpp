#include "loci/nn/memory/query_net.h"

#include <ATen/ops/relu.h>
#include <fmt/format.h>

#include <cmath>

#include "loci/nn/initialise.h"
#include "loci/nn/memory/memory_formula.h"
#include "loci/nn/token_mask.h"
#include "loci/ops/few_linear/few_linear.h"

namespace loci {

using at::Tensor;

Tensor QueryNet::at_positions(const Tensor& x, const Tensor& positions) {
  return forward(take_tokens(x.reshape({x.numel() / x.size(-1), x.size(-1)}), positions));
}

MlpQueryNet::MlpQueryNet(const std::string& name, const std::vector<int64_t>& widths, bool train_last_bias,
                         uint64_t seed)
    : QueryNet("MlpQueryNet") {
  for (size_t i = 0; i + 1 < widths.size(); ++i) {
    const std::string stream = fmt::format("{}.query_{}", name, i);
    const double bound = 1 / std::sqrt(static_cast<double>(widths[i]));
    const Tensor draw = uniform_start(seed, stream + "_bias", {widths[i + 1]}, bound);
    weight.push_back(register_parameter(fmt::format("weight_{}", i),
                                        uniform_start(seed, stream + "_weight", {widths[i + 1], widths[i]}, bound)));
    const bool trained = train_last_bias || i + 2 < widths.size();
    const std::string bias_name = fmt::format("bias_{}", i);
    bias.push_back(trained ? register_parameter(bias_name, draw) : register_buffer(bias_name, draw));
  }
}

Tensor MlpQueryNet::forward(const Tensor& x) {
  Tensor q = x;
  for (size_t i = 0; i < weight.size(); ++i) {
    if (i > 0) q = at::relu(q);
    q = linear_map(as_parameter(q, weight[i]), weight[i], bias[i]);
  }
  return q;
}

}  // namespace loci
