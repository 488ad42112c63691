#include "loci/nn/relation/non_local.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"
#include "loci/nn/relation/non_local_layout.h"
#include "loci/ops/batch_product/batch_product.h"
#include "loci/ops/non_local_concat/non_local_concat.h"
#include "loci/ops/non_local_dot/non_local_dot.h"
#include "loci/ops/non_local_softmax/non_local_softmax.h"

// Legend: B batch, C channels, I inner width, N positions of a query's window, M those of its keys.

namespace loci {
namespace {

using at::Tensor;

constexpr double kSmallStart = 0.01;

bool is_zero(const Tensor& x) {
  return !x.any().item<bool>();
}

}  // namespace

NonLocal::NonLocal(const std::string& name, NonLocalOptions options, uint64_t seed)
    : Module("NonLocal"), options_(std::move(options)) {
  options_.check();
  const int64_t C = options_.channels, I = options_.inner_width();
  const auto weight = [&](const char* which, at::IntArrayRef sizes, int64_t inputs) {
    const double std = options_.start == PairStart::he ? std::sqrt(2.0 / static_cast<double>(inputs)) : kSmallStart;
    return register_parameter(which, normal_start(seed, fmt::format("{}.{}", name, which), sizes, std));
  };
  const auto bias = [&](const char* which, int64_t size) { return register_parameter(which, at::zeros({size})); };
  if (options_.has_embeddings()) {
    theta_weight = weight("theta_weight", {I, C}, C);
    theta_bias = bias("theta_bias", I);
    phi_weight = weight("phi_weight", {I, C}, C);
    phi_bias = bias("phi_bias", I);
  }
  g_weight = weight("g_weight", {I, C}, C);
  g_bias = bias("g_bias", I);
  if (options_.form == PairForm::concat) concat_weight = weight("concat_weight", {2 * I}, 2 * I);
  // Without a norm whose scale is 0, W_z itself is.
  output_weight = options_.norm == PairNorm::none ? register_parameter("output_weight", at::zeros({C, I}))
                                                  : weight("output_weight", {C, I}, I);
  if (options_.output_bias) output_bias = bias("output_bias", C);
  if (options_.norm != PairNorm::batch && options_.norm != PairNorm::frozen) return;
  norm.gain = bias("norm_gain", C);
  norm.bias = bias("norm_bias", C);
  norm.running_mean = register_buffer("running_mean", at::zeros({C}));
  norm.running_variance = register_buffer("running_variance", at::ones({C}));
}

double NonLocal::scale() const {
  const bool scaled = options_.form == PairForm::embedded && options_.scale == PairScale::rsqrt;
  return scaled ? 1 / std::sqrt(static_cast<double>(options_.inner_width())) : 1;
}

NonLocal::Pairs NonLocal::pairs(const Tensor& x) const {
  require_relation_map("NonLocal", x, options_.channels, options_.dimensions);
  const Tensor tokens = map_tokens(x);  // [B, T, H, W, C]
  Pairs pairs;
  pairs.map = {tokens.size(1), tokens.size(2), tokens.size(3)};
  std::tie(pairs.window, pairs.keys) = options_.windows(pairs.map);
  const MapExtents kernel = options_.kernel();
  const bool pools_after = options_.pool == PairPool::after;
  const Tensor source = options_.pool == PairPool::before ? max_pooled(tokens, kernel) : tokens;
  const auto pooled = [&](const Tensor& y) { return pools_after ? max_pooled(y, kernel) : y; };
  const Tensor value = pooled(pointwise(source, g_weight, g_bias));
  Tensor query = tokens, key = source;
  if (options_.form == PairForm::gaussian) {
    query = query.to(value.scalar_type());
    key = pooled(key.to(value.scalar_type()));
  } else if (options_.form == PairForm::concat) {
    // w . [theta, phi] is one number of a query and one of a key: the embeddings are folded into w where no pooling
    // stands between.
    const int64_t I = options_.inner_width();
    const Tensor w1 = concat_weight.narrow(0, 0, I).view({1, I}), w2 = concat_weight.narrow(0, I, I).view({1, I});
    query = pointwise(query, w1.matmul(theta_weight), w1.mv(theta_bias));
    key = pools_after ? pointwise(pooled(pointwise(source, phi_weight, phi_bias)), w2, {})
                      : pointwise(source, w2.matmul(phi_weight), w2.mv(phi_bias));
  } else {
    query = pointwise(query, theta_weight, theta_bias);
    key = pooled(pointwise(source, phi_weight, phi_bias));
  }
  pairs.query = to_windows(query, pairs.window);
  pairs.key = to_windows(key, pairs.keys);
  pairs.value = to_windows(value, pairs.keys);
  return pairs;
}

Tensor NonLocal::summed(const Pairs& p) const {
  switch (options_.form) {
    case PairForm::dot:
      return non_local_dot(p.query, p.key, p.value);
    case PairForm::concat:
      return non_local_concat(p.query.squeeze(-1), p.key.squeeze(-1), p.value);
    default:
      return non_local_softmax(p.query, p.key, p.value, scale());
  }
}

Tensor NonLocal::weights(const Tensor& query, const Tensor& key, const Tensor& mask) const {
  if (mask.defined()) {
    TORCH_CHECK(mask.scalar_type() == at::kBool && mask.dim() == 2 && mask.size(0) == query.size(-2) &&
                    mask.size(1) == key.size(-2),
                "NonLocal: mask must be bool [", query.size(-2), ", ", key.size(-2), "], got ", mask.scalar_type(), " ",
                mask.sizes());
  }
  const bool softmax = options_.form == PairForm::gaussian || options_.form == PairForm::embedded;
  if (softmax) {
    Tensor logits = batch_product(query, key.transpose(-2, -1), scale());  // [.., n, M]
    if (!mask.defined()) return at::softmax(logits, -1);
    logits = logits.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity());
    return at::where(mask.any(-1, /*keepdim=*/true), at::softmax(logits, -1), 0);
  }
  const Tensor f = options_.form == PairForm::concat ? at::relu(query + key.transpose(-2, -1))
                                                     : batch_product(query, key.transpose(-2, -1));
  if (!mask.defined()) return f / key.size(-2);
  return at::where(mask, f, 0) / mask.sum(-1, /*keepdim=*/true).clamp_min(1);
}

Tensor NonLocal::residual(const Tensor& x, const Pairs& p, const Tensor& y, bool training) const {
  const bool scaled = norm.gain.defined();
  TORCH_CHECK(!training || !scaled || !is_zero(norm.gain) || !is_zero(output_weight),
              "NonLocal: W_z must not be 0 while the norm's scale is 0 (neither would ever move), got 0");
  Tensor z = pointwise(from_windows(y, p.map, p.window), output_weight, output_bias);  // [B, T, H, W, C]
  if (scaled) {
    const Tensor rows = z.reshape({-1, options_.channels});
    z = batch_normalised(rows, norm, training && options_.norm == PairNorm::batch).view(z.sizes());
  } else if (options_.norm == PairNorm::layer) {
    const Tensor samples = z.flatten(1);
    z = at::layer_norm(samples, {samples.size(1)}, {}, {}, kNormEpsilon).view(z.sizes());
  }
  return tokens_map(x, z.to(x.scalar_type()));
}

void NonLocal::keep_inputs(int64_t samples) {
  kept_samples_ = samples;
  kept_input_ = Tensor();
}

void NonLocal::keep_input(const Tensor& x) {
  if (kept_samples_ > 0) kept_input_ = x.detach().narrow(0, 0, std::min(kept_samples_, x.size(0))).clone();
}

Tensor NonLocal::forward(const Tensor& x, const Tensor& mask) {
  if (mask.defined()) return forward_with_map(x, mask).first;
  const Pairs p = pairs(x);
  keep_input(x);
  return x + residual(x, p, summed(p), is_training());
}

std::pair<Tensor, Tensor> NonLocal::forward_with_map(const Tensor& x, const Tensor& mask) {
  TORCH_CHECK(!mask.defined() || options_.domain == PairDomain::spacetime,
              "NonLocal: a mask must come with domain spacetime, got another domain");
  const Pairs p = pairs(x);
  keep_input(x);
  const Tensor map = weights(p.query, p.key, mask);
  return {x + residual(x, p, batch_product(map.to(p.value.scalar_type()), p.value), is_training()), map};
}

}  // namespace loci
