#include "loci/nn/memory/convolution_query_net.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"
#include "loci/nn/token_mask.h"
#include "loci/ops/few_linear/few_linear.h"

namespace loci {

using at::Tensor;

ConvolutionQueryNet::ConvolutionQueryNet(const std::string& name, int64_t dimensions,
                                         const std::vector<int64_t>& kernels, const std::vector<int64_t>& channels,
                                         bool train_last_bias, uint64_t seed)
    : QueryNet("ConvolutionQueryNet"), dimensions_(dimensions) {
  const auto refuse = [](const std::string& expected, const std::string& got) {
    fail(ExitCode::usage, "ConvolutionQueryNet", expected, got);
  };
  if (dimensions < 0 || dimensions > 3) refuse("dimensions must be within 0 .. 3", std::to_string(dimensions));
  if (kernels.empty() || channels.size() != kernels.size() + 1) {
    refuse("channels must be one more than kernels, at least 2", fmt::format("{}", channels.size()));
  }
  for (const int64_t channel : channels) {
    if (channel < 1) refuse("channels must be at least 1", std::to_string(channel));
  }
  for (const int64_t kernel : kernels) {
    if (kernel < 1 || kernel % 2 == 0) refuse("kernels must be odd", std::to_string(kernel));
    if (dimensions == 0 && kernel != 1) refuse("kernels must be 1 with dimensions 0", std::to_string(kernel));
  }
  for (size_t i = 0; i < kernels.size(); ++i) {
    const std::string stream = fmt::format("{}.query_{}", name, i);
    std::vector<int64_t> sizes = {channels[i + 1], channels[i]};
    sizes.insert(sizes.end(), static_cast<size_t>(dimensions), kernels[i]);
    const double inputs =
        static_cast<double>(channels[i]) * std::pow(static_cast<double>(kernels[i]), static_cast<double>(dimensions));
    const double bound = 1 / std::sqrt(inputs);
    weight.push_back(
        register_parameter(fmt::format("weight_{}", i), uniform_start(seed, stream + "_weight", sizes, bound)));
    if (i + 1 == kernels.size()) {
      const Tensor draw = uniform_start(seed, stream + "_bias", {channels[i + 1]}, bound);
      bias = train_last_bias ? register_parameter("bias", draw) : register_buffer("bias", draw);
      break;
    }
    const int64_t outputs = channels[i + 1];
    norm.push_back({register_parameter(fmt::format("norm_gain_{}", i), at::ones({outputs})),
                    register_parameter(fmt::format("norm_bias_{}", i), at::zeros({outputs})),
                    register_buffer(fmt::format("running_mean_{}", i), at::zeros({outputs})),
                    register_buffer(fmt::format("running_variance_{}", i), at::ones({outputs}))});
  }
}

Tensor ConvolutionQueryNet::forward(const Tensor& x) {
  return at_positions(x, {});
}

Tensor ConvolutionQueryNet::at_positions(const Tensor& x, const Tensor& positions) {
  const int64_t tokens = x.numel() / x.size(-1);
  const auto rows = [&](const Tensor& map) { return map.reshape({tokens, map.size(-1)}); };
  const auto padded = [&](const Tensor& valid) {
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes.back() = valid.size(1);
    return put_tokens(valid, positions, tokens).view(sizes);
  };
  Tensor map = positions.defined() ? padded(take_tokens(rows(x), positions)) : x;
  for (size_t i = 0; i < norm.size(); ++i) {
    const Tensor valid = take_tokens(rows(convolved(map, i)), positions);  // [T', outputs]
    map = padded(at::relu(batch_normalised(valid, norm[i], is_training())));
  }
  return take_tokens(rows(convolved(map, norm.size())), positions);
}

Tensor ConvolutionQueryNet::convolved(const Tensor& x, size_t layer) const {
  const Tensor& w = weight[layer];
  const Tensor input = as_parameter(x, w);
  const std::optional<Tensor> last_bias = layer == norm.size() ? std::optional(bias) : std::nullopt;
  const int64_t kernel = dimensions_ == 0 ? 1 : w.size(2);
  if (kernel == 1) return linear_map(input, w.view({w.size(0), w.size(1)}), last_bias);
  const Tensor map = input.movedim(-1, 1);  // [B, C, ...]
  const std::vector<int64_t> once(static_cast<size_t>(dimensions_), 1),
      padding(static_cast<size_t>(dimensions_), kernel / 2);
  const auto run = [&] {
    if (dimensions_ == 1) return at::conv1d(map, w, last_bias, once, padding);
    if (dimensions_ == 2) return at::conv2d(map, w, last_bias, once, padding);
    return at::conv3d(map, w, last_bias, once, padding);
  };
  return run().movedim(1, -1);
}

}  // namespace loci
