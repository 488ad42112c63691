#include "loci/nn/relation/efficient_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"
#include "loci/nn/relation/non_local_layout.h"
#include "loci/ops/non_local_dot/non_local_dot.h"

// Legend: B batch, C channels, N positions, I inner width.

namespace loci {

using at::Tensor;

void EfficientAttentionOptions::fields(ConfigFields& f) {
  f.field("inner", inner, "channels of queries, keys and values; 0: half of the map's",
          {.minimum = 0, .maximum = 1 << 20});
}

void EfficientAttentionOptions::check() const {
  check_relation_map("EfficientAttention", channels, dimensions);
  if (inner < 0) fail(ExitCode::usage, "EfficientAttention", "inner must be at least 0", fmt::to_string(inner));
}

int64_t EfficientAttentionOptions::inner_width() const {
  return inner > 0 ? inner : std::max<int64_t>(1, channels / 2);
}

EfficientAttention::EfficientAttention(const std::string& name, const EfficientAttentionOptions& options, uint64_t seed)
    : Module("EfficientAttention"), options_(options) {
  options_.check();
  const int64_t C = options_.channels, I = options_.inner_width();
  const auto add = [&](const std::string& which, Tensor& weight, Tensor& bias) {
    const std::string weight_name = which + "_weight";
    const double std = std::sqrt(2.0 / static_cast<double>(C));
    weight = register_parameter(weight_name, normal_start(seed, fmt::format("{}.{}", name, weight_name), {I, C}, std));
    bias = register_parameter(which + "_bias", at::zeros({I}));
  };
  add("theta", theta_weight, theta_bias);
  add("phi", phi_weight, phi_bias);
  add("g", g_weight, g_bias);
  output_weight = register_parameter("output_weight", at::zeros({C, I}));
  output_bias = register_parameter("output_bias", at::zeros({C}));
}

Tensor EfficientAttention::forward(const Tensor& x) {
  require_relation_map("EfficientAttention", x, options_.channels, options_.dimensions);
  const Tensor tokens = map_tokens(x);
  const Tensor flat = tokens.flatten(1, 3);  // [B, N, C]
  const Tensor query = at::softmax(pointwise(flat, theta_weight, theta_bias), -1);
  const Tensor key = at::softmax(pointwise(flat, phi_weight, phi_bias), 1);
  const Tensor value = pointwise(flat, g_weight, g_bias);
  // non_local_dot divides by the number of keys.
  const Tensor y = non_local_dot(query.to(value.scalar_type()), key.to(value.scalar_type()),
                                 value * static_cast<double>(flat.size(1)));
  const Tensor z = pointwise(y, output_weight, output_bias).view(tokens.sizes());
  return x + tokens_map(x, z.to(x.scalar_type()));
}

}  // namespace loci
