#include "loci/nn/relation/global_context.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/nn/batch_normalised.h"
#include "loci/nn/initialise.h"
#include "loci/nn/relation/non_local_layout.h"
#include "loci/ops/batch_product/batch_product.h"

// Legend: B batch, C channels, N positions, R bottleneck width.

namespace loci {

using at::Tensor;

void GlobalContextOptions::fields(ConfigFields& f) {
  f.field("ratio", ratio, "channels of the map for each channel of the bottleneck", {.minimum = 1, .maximum = 1 << 20});
}

void GlobalContextOptions::check() const {
  check_relation_map("GlobalContext", channels, dimensions);
  if (ratio < 1) fail(ExitCode::usage, "GlobalContext", "ratio must be at least 1", fmt::to_string(ratio));
}

int64_t GlobalContextOptions::bottleneck() const {
  return std::max<int64_t>(1, channels / ratio);
}

GlobalContext::GlobalContext(const std::string& name, const GlobalContextOptions& options, uint64_t seed)
    : Module("GlobalContext"), options_(options) {
  options_.check();
  const int64_t C = options_.channels, R = options_.bottleneck();
  const auto weight = [&](const char* which, at::IntArrayRef sizes) {
    const double std = std::sqrt(2.0 / static_cast<double>(C));
    return register_parameter(which, normal_start(seed, fmt::format("{}.{}", name, which), sizes, std));
  };
  key_weight = weight("key_weight", {1, C});
  inner_weight = weight("inner_weight", {R, C});
  inner_bias = register_parameter("inner_bias", at::zeros({R}));
  norm_gain = register_parameter("norm_gain", at::ones({R}));
  norm_bias = register_parameter("norm_bias", at::zeros({R}));
  output_weight = register_parameter("output_weight", at::zeros({C, R}));
  output_bias = register_parameter("output_bias", at::zeros({C}));
}

Tensor GlobalContext::forward(const Tensor& x) {
  return forward_with_map(x).first;
}

std::pair<Tensor, Tensor> GlobalContext::forward_with_map(const Tensor& x) {
  require_relation_map("GlobalContext", x, options_.channels, options_.dimensions);
  const Tensor tokens = map_tokens(x).flatten(1, 3);                                      // [B, N, C]
  const Tensor map = at::softmax(pointwise(tokens, key_weight, {}).transpose(1, 2), -1);  // [B, 1, N]
  const Tensor context = batch_product(map, tokens.to(map.scalar_type())).squeeze(1);     // [B, C]
  const Tensor inner = pointwise(context, inner_weight, inner_bias);                      // [B, R]
  const Tensor normed = at::layer_norm(as_parameter(inner, norm_gain), {inner.size(-1)}, norm_gain, norm_bias);
  const Tensor message = pointwise(normed.relu(), output_weight, output_bias).to(x.scalar_type());  // [B, C]
  std::vector<int64_t> sizes(static_cast<size_t>(x.dim()), 1);
  sizes[0] = x.size(0);
  sizes[1] = x.size(1);
  return {x + message.view(sizes), map.squeeze(1)};
}

}  // namespace loci
